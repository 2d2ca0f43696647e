//! An object store that both sides upload to: s3s-fs, which keeps objects as files, in a process of its
//! own. Nothing is signed, by neither side.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::Result;

/// A store with an empty bucket.
#[derive(Debug)]
pub(crate) struct Store {
    process: Child,
    root: PathBuf,
    endpoint: String,
}

impl Store {
    /// Starts it; its objects lie below `work`.
    pub(crate) fn start(work: &Path) -> Result<Self> {
        let root = work.join("store");
        fs::create_dir_all(root.join(BUCKET))?;
        let mut process = Command::new(env::current_exe()?)
            .arg("--serve-store")
            .arg(&root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut address = String::new();
        let stdout = process.stdout.take().ok_or("the store has no output")?;
        BufReader::new(stdout).read_line(&mut address)?;
        Ok(Self { process, root, endpoint: format!("http://{}", address.trim()) })
    }

    /// What `{name}` stands for.
    pub(crate) fn word(&self, name: &str) -> Option<String> {
        match name {
            "object" => Some(format!("s3://{BUCKET}/ours")),
            "store" => Some(self.endpoint.clone()),
            _ => None,
        }
    }

    /// The file that holds the object of `{object}` with this extension.
    pub(crate) fn file(&self, extension: &str) -> PathBuf {
        self.root.join(BUCKET).join(format!("ours{extension}"))
    }

    /// A text without what changes from run to run.
    pub(crate) fn without_places(&self, text: &str) -> String {
        text.replace(&self.endpoint, "$STORE")
    }

    /// Removes all objects, and waits for nothing: what is written next is written by the store.
    pub(crate) fn empty(&self) -> Result<()> {
        let bucket = self.root.join(BUCKET);
        fs::remove_dir_all(&bucket)?;
        fs::create_dir_all(bucket)?;
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            if path.is_file() {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // It ends with its input; a store that is gone already is as good.
        drop(self.process.stdin.take());
        let _ended = self.process.wait();
        let _removed = fs::remove_dir_all(&self.root);
    }
}

/// Serves the directory `root` until the input ends; the address is the first line of the output.
pub(crate) fn serve(root: &Path) -> Result<()> {
    let service = s3s::service::S3ServiceBuilder::new(
        s3s_fs::FileSystem::new(root).map_err(|error| format!("{error:?}"))?,
    )
    .build();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0)))?;
    println!("{}", listener.local_addr()?);
    runtime.spawn(async move {
        loop {
            let Ok((socket, _)) = listener.accept().await else { continue };
            let http = hyper::server::conn::http1::Builder::new();
            let connection = http.serve_connection(hyper_util::rt::TokioIo::new(socket), service.clone());
            // A client that goes away is no concern of the store.
            tokio::spawn(async move { drop(connection.await) });
        }
    });
    std::io::stdin().read_to_end(&mut Vec::new())?;
    runtime.shutdown_background();
    Ok(())
}

const BUCKET: &str = "bench";
