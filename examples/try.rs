//! Throw-away.
use vmferry::*;
#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let spec = match args[3].as_str() {
        "raw" => formats::WriterSpec::Raw(formats::raw::RawOptions {}),
        "qcow2" => formats::WriterSpec::Qcow2(formats::qcow2::Qcow2Options::default()),
        "qcow2c" => formats::WriterSpec::Qcow2(formats::qcow2::Qcow2Options {
            compression: formats::Compression::Deflate,
            ..Default::default()
        }),
        "qcow2z" => formats::WriterSpec::Qcow2(formats::qcow2::Qcow2Options {
            compression: formats::Compression::Zstd,
            ..Default::default()
        }),
        _ => formats::WriterSpec::Vmdk(formats::vmdk::VmdkOptions::default()),
    };
    let options = ConversionOptions {
        force: true,
        resume: ResumePolicy::Restart,
        digest: (args[4] != "none").then_some(formats::digest::Algorithm::Sha256),
        ..Default::default()
    };
    let c = Conversion::new(args[1].clone(), Target::Path(args[2].clone().into()), spec, options);
    match c.run().await {
        Ok(r) => println!("{r:#?}"),
        Err(e) => println!("{e:?}"),
    }
}
