//! Names of files for what others have named.

/// A file name for the text of an object's name: no path, nothing hidden, nothing that steers a
/// terminal or a shell. At most 200 bytes.
pub(crate) fn file_name(text: &str) -> String {
    let kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let mut name: String = text.chars().map(|c| if kept(c) { c } else { '_' }).collect();
    name.truncate(MAX_FILE_NAME_LEN);
    let name = name.trim_start_matches(['.', '-']);
    if name.is_empty() { "unnamed".to_owned() } else { name.to_owned() }
}

/// What the files of an appliance are called after, for the text of its name: a [`file_name`] that
/// leaves room for what stands behind it.
pub(crate) fn base_name(text: &str) -> String {
    let mut name = file_name(text);
    name.truncate(MAX_BASE_LEN);
    name
}

/// File systems take 255; `.qcow2.partial.journal` is to fit behind.
const MAX_FILE_NAME_LEN: usize = 200;

/// Archives take names of 99 bytes; `-disk1000.vmdk` is to fit behind.
const MAX_BASE_LEN: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_stay_in_their_directory() {
        for (text, name) in [
            ("root-disk", "root-disk"),
            ("db.prod", "db.prod"),
            ("../../etc/passwd", "_.._etc_passwd"),
            ("..", "unnamed"),
            (".hidden", "hidden"),
            ("-rf", "rf"),
            ("a b\x1b[2J\n", "a_b__2J_"),
            ("", "unnamed"),
            ("/", "_"),
        ] {
            assert_eq!(file_name(text), name, "{text:?}");
        }
        assert_eq!(file_name(&"ä".repeat(400)).len(), 200);
    }

    #[test]
    fn names_of_appliances_leave_room_in_an_archive() {
        assert_eq!(base_name("my vm"), "my_vm");
        for text in ["ü".repeat(300), "a".repeat(100)] {
            let name = format!("{}-disk1000.vmdk", base_name(&text));
            vmferry_formats::ova::check_name(&name).unwrap();
        }
    }
}
