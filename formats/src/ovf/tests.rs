//! Descriptors that break rules, and properties of the pair of writer and parser.

use proptest::prelude::*;

use super::{document::MAX_DESCRIPTOR_LEN, sample::sample, *};
use crate::{ErrorKind, error::Result};

proptest! {
    #[test]
    fn what_is_written_reads_back_equal(seed: u64) {
        let envelope = sample(seed);
        let text = envelope.to_template().unwrap();
        prop_assert_eq!(parse(text.as_bytes()).unwrap(), envelope);
    }

    #[test]
    fn a_descriptor_that_is_cut_is_no_descriptor(seed in 0_u64..50, at: prop::sample::Index) {
        let text = sample(seed).to_template().unwrap();
        let cut = at.index(text.trim_end().len());
        prop_assert!(parse(&text.as_bytes()[..cut]).is_err());
    }

    #[test]
    fn damage_is_an_error_or_another_descriptor(seed in 0_u64..50, at: prop::sample::Index, byte: u8) {
        let mut bytes = sample(seed).to_template().unwrap().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(envelope) = parse(&bytes) {
            let _ = envelope.to_template();
        }
    }
}

/// A descriptor with this in the place of its sections and this in its hardware.
fn with(sections: &str, hardware: &str) -> String {
    format!(
        "<?xml version='1.0'?>\n<o:Envelope xmlns:o=\"{NS_OVF}\" xmlns:r=\"{NS_RASD}\" xmlns:v=\"{NS_VSSD}\" \
         xmlns:w=\"{NS_VMW}\" xmlns:x=\"{NS_XSI}\">{sections}<o:VirtualSystem o:id=\"vm\"><o:Info/>\
         <o:VirtualHardwareSection><o:Info/>{hardware}</o:VirtualHardwareSection></o:VirtualSystem></o:Envelope>\n"
    )
}

fn refusal(text: &str) -> ErrorKind {
    let error = parse(text.as_bytes()).unwrap_err();
    assert!(!error.to_string().chars().any(char::is_control), "{error}");
    error.kind()
}

#[test]
fn late_numbers_leave_markers_that_nothing_else_can_be() {
    let mut envelope = sample(7);
    let hostile = "<vmferry-size-00000>".to_owned();
    envelope.files = vec![
        File { id: "f".into(), href: "a.vmdk".into(), size: Some(Number::Late(0)), ..File::default() },
        File {
            id: hostile.clone(),
            href: "b.vmdk".into(),
            size: Some(Number::Late(99_999)),
            ..File::default()
        },
    ];
    let disk = Disk { id: hostile, populated_size: Some(Number::Late(12)), ..Disk::default() };
    envelope.disks = vec![disk];
    let text = envelope.to_template().unwrap();
    for marker in ["<vmferry-size-00000>", "<vmferry-size-99999>", "<vmferry-used-00012>"] {
        assert_eq!(marker.len(), MARKER_LEN);
        assert_eq!(text.matches(marker).count(), 1, "{marker} in {text}");
    }
    assert_eq!(text.matches("<vmferry-").count(), 3);
    assert_eq!(u64::MAX.to_string().len(), MARKER_LEN);
    envelope.files[0].size = Some(Number::Late(100_000));
    assert_eq!(envelope.to_template().unwrap_err().kind(), ErrorKind::Limit);
}

#[test]
fn what_importers_or_xml_do_not_take_is_not_written() {
    let written = |edit: fn(&mut Envelope)| {
        let mut envelope = sample(3);
        envelope.files = vec![File { id: "f".into(), href: "a".into(), ..File::default() }];
        edit(&mut envelope);
        envelope.to_template().map(|_| ())
    };
    written(|_| {}).unwrap();
    let wrong: [fn(&mut Envelope); 5] = [
        |envelope| envelope.files[0].href = "a b.vmdk".into(),
        |envelope| envelope.files[0].href = "../a".into(),
        |envelope| envelope.system.id = "a\u{1b}[2J".into(),
        |envelope| envelope.system.annotation = Some("a\0".into()),
        |envelope| envelope.files[0].id = "\u{ffff}".into(),
    ];
    for edit in wrong {
        let error = written(edit).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(!error.to_string().chars().any(char::is_control), "{error}");
    }
}

#[test]
fn any_prefix_and_unqualified_attributes_are_understood() {
    let text = with(
        "<o:References><o:File id='f1' href='a&amp;b.vmdk' o:size=' 7 '/></o:References>\
         <DiskSection xmlns='http://schemas.dmtf.org/ovf/envelope/1'><Info>x</Info>\
         <Disk diskId='d' capacity='10' capacityAllocationUnits='MegaBytes' fileRef='f1'/></DiskSection>",
        "<o:System><v:ElementName>x</v:ElementName><v:InstanceID>0</v:InstanceID></o:System>\
         <o:Item o:required='0'><r:ElementName>CPU &lt;<![CDATA[&2>]]>&#x41;</r:ElementName><r:InstanceID>1</r:InstanceID>\
         <r:Limit x:nil='true'>junk</r:Limit><r:ResourceType> 3 </r:ResourceType><w:CoresPerSocket>2</w:CoresPerSocket>\
         <r:Weight>0</r:Weight></o:Item><w:Config w:key='firmware' w:value='efi'/><w:Other/>",
    );
    let envelope = parse(format!("\u{feff}{text}\n \n").as_bytes()).unwrap();
    assert_eq!(envelope.files[0].href, "a&b.vmdk");
    assert_eq!(envelope.files[0].size, Some(Number::Known(7)));
    assert_eq!(envelope.disk("d").unwrap().capacity, 10 << 20);
    assert_eq!(envelope.file("f1").unwrap().safe_name().unwrap(), "a&b.vmdk");
    let item = &envelope.system.hardware.items[0];
    assert!(item.is_optional && item.limit.is_none());
    assert_eq!((item.element_name.as_str(), item.resource_type), ("CPU <&2>A", resource::CPU));
    assert_eq!(item.cores_per_socket, Some(2));
    assert_eq!(envelope.system.hardware.config, [Setting { key: "firmware".into(), value: "efi".into() }]);
    assert_eq!(envelope.unknown, ["Item/Weight", "VirtualHardwareSection/Other"]);
}

#[test]
fn host_resources_name_disks_and_files() {
    let item = |resource: &str| Item { host_resources: vec![resource.to_owned()], ..Item::default() };
    for (resource, disk, file) in [
        ("ovf:/disk/vmdisk1", Some("vmdisk1"), None),
        ("/disk/vmdisk1", Some("vmdisk1"), None),
        (" ovf:/file/iso ", None, Some("iso")),
        ("ovf://disk/x", None, None),
        ("http://x/disk/y", None, None),
    ] {
        assert_eq!((item(resource).disk_id(), item(resource).file_id()), (disk, file), "{resource}");
    }
}

#[test]
fn units_are_those_of_the_specification_and_of_old_programs() {
    for (units, bytes) in [
        ("", Some(1)),
        ("byte", Some(1)),
        ("byte * 2^20", Some(1 << 20)),
        ("byte*2^30", Some(1 << 30)),
        ("bytes * 10^9", Some(1_000_000_000)),
        ("MB", Some(1 << 20)),
        ("GigaBytes", Some(1 << 30)),
        ("byte * 2^64", None),
        ("byte * 3^2", None),
        ("hertz * 10^6", None),
        ("byte * 2^-1", None),
    ] {
        assert_eq!(bytes_per_unit(units), bytes, "{units}");
    }
}

#[test]
fn capacities_that_are_no_number_of_bytes_are_unsupported() {
    for (capacity, units) in
        [("${disk}", "byte"), ("-1", "byte"), ("9", "furlong"), ("99999999999", "byte * 2^40")]
    {
        let section = format!(
            "<o:DiskSection><o:Disk o:diskId='d' o:capacity='{capacity}' o:capacityAllocationUnits='{units}'/></o:DiskSection>"
        );
        assert_eq!(refusal(&with(&section, "")), ErrorKind::Unsupported, "{capacity} {units}");
    }
}

#[test]
fn bombs_are_refused_before_they_grow() {
    let doctype = |inner: &str| format!("<!DOCTYPE x [{inner}]>{}", with("", "").split_once('\n').unwrap().1);
    assert_eq!(refusal(&doctype("<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;'>")), ErrorKind::Refused);
    assert_eq!(refusal(&doctype("<!ENTITY x SYSTEM 'file:///etc/passwd'>")), ErrorKind::Refused);
    assert_eq!(refusal(&with("&lol;", "")), ErrorKind::Refused);
    assert_eq!(refusal(&with("<o:A o:b='&lol;'/>", "")), ErrorKind::Corrupt);

    let limits = [
        with(&"<o:A>".repeat(40), ""),
        with(&"<o:A/>".repeat(70_000), ""),
        with(&format!("<o:A {}/>", (0..70).map(|n| format!("a{n}='' ")).collect::<String>()), ""),
        with(&format!("<o:A b='{}'/>", "x".repeat(70_000)), ""),
        with(&format!("<o:A>{}</o:A>", "x".repeat(1_100_000)), ""),
        with(&format!("<o:A>{}</o:A>", "<![CDATA[xxxxxxxxxxxxxxxx]]>".repeat(70_000)), ""),
        with("", &"<o:Item><r:ResourceType>1</r:ResourceType></o:Item>".repeat(4097)),
        with(&format!("<o:References>{}</o:References>", many_files(4097)), ""),
        with(&format!("<{}/>", "x".repeat(300)), ""),
        " ".repeat(crate::num::to_usize(MAX_DESCRIPTOR_LEN) + 1),
    ];
    for text in limits {
        assert_eq!(refusal(&text), ErrorKind::Limit, "{}…", &text[..200.min(text.len())]);
    }
    let many = with(&(0..100).map(|n| format!("<o:A{n}/>")).collect::<String>(), "");
    assert_eq!(parse(many.as_bytes()).unwrap().unknown.len(), 64);
    assert!(refusal(&with(&format!("<o:A {}/>", declarations(40)), "")) == ErrorKind::Corrupt);
}

fn many_files(count: usize) -> String {
    (0..count).map(|n| format!("<o:File o:id='f{n}' o:href='x'/>")).collect()
}

fn declarations(count: usize) -> String {
    (0..count).map(|n| format!("xmlns:p{n}='u' ")).collect()
}

#[test]
fn versions_and_shapes_that_are_not_read_are_named() {
    let text = with("", "");
    let version = |namespace: &str| text.replace(NS_OVF, namespace);
    assert_eq!(refusal(&version(NS_OVF_2)), ErrorKind::Unsupported);
    assert_eq!(refusal(&version(NS_OVF_0_9)), ErrorKind::Unsupported);
    assert_eq!(refusal(&version("http://example.org/")), ErrorKind::Corrupt);
    assert_eq!(refusal(&text.replace("?>", " encoding='ISO-8859-1'?>")), ErrorKind::Unsupported);
    let two = "<o:VirtualSystem o:id='other'/>";
    assert_eq!(refusal(&with(two, "")), ErrorKind::Unsupported);
    let collected = |inner: &str| {
        let text = with("", "");
        let (front, rest) = text.split_once("<o:VirtualSystem ").unwrap();
        let rest = rest.strip_suffix("</o:Envelope>\n").unwrap();
        format!(
            "{front}<o:VirtualSystemCollection o:id='c'>{inner}<o:VirtualSystem {rest}</o:VirtualSystemCollection></o:Envelope>"
        )
    };
    assert_eq!(parse(collected("<o:Info/>").as_bytes()).unwrap().system.id, "vm");
    assert_eq!(refusal(&collected(two)), ErrorKind::Unsupported);
    assert_eq!(parse("\u{feff}".as_bytes()).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(parse(b"\xff\xfe<").unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn what_must_be_there_is_missed() -> Result<()> {
    let file = |attributes: &str| with(&format!("<o:References><o:File {attributes}/></o:References>"), "");
    parse(file("o:id='a' o:href='/etc/passwd'").as_bytes())?;
    for text in [
        file("o:id='a'"),
        file("o:href='a'"),
        file("o:id='a' o:href='b' o:size='-1'"),
        file("o:id='a' o:href='b'/><o:File o:id='a' o:href='c'"),
        with("<o:DiskSection><o:Disk o:diskId='d'/></o:DiskSection>", ""),
        with("", "<o:Item/>"),
        with("", "<o:Item><r:ResourceType>x</r:ResourceType></o:Item>"),
        with("", "<o:Item><r:ResourceType>99999</r:ResourceType></o:Item>"),
        with(
            "",
            "<o:Item><r:ResourceType>3</r:ResourceType><r:VirtualQuantity>1e9</r:VirtualQuantity></o:Item>",
        ),
        with("", "").replace("o:id=", "o:ID="),
        with("<q:A/>", ""),
        with("&#0;", ""),
        with("&#xFFFF;", ""),
        with("\u{1}", ""),
        format!("{}<o/>", with("", "")),
        format!("{}x", with("", "")),
        with("</o:B>", ""),
    ] {
        assert_eq!(refusal(&text), ErrorKind::Corrupt, "{text}");
    }
    let href = parse(file("o:id='a' o:href='/etc/passwd'").as_bytes())?;
    assert_eq!(href.files[0].safe_name().unwrap_err().kind(), ErrorKind::Refused);
    Ok(())
}
