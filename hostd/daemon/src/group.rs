//! Groups by name, read from the file itself: a static program has no NSS.

use rustix::fs::Gid;

/// The id of a group, or of a number.
pub(crate) fn find(name: &str) -> Option<Gid> {
    if let Ok(id) = name.parse() {
        return Some(Gid::from_raw(id));
    }
    parse(&std::fs::read_to_string("/etc/group").ok()?, name)
}

fn parse(file: &str, name: &str) -> Option<Gid> {
    let line = file
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name))?;
    line.get(2)?.parse().ok().map(Gid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_name_and_number() {
        let file = "root:x:0:\nbroken\ndocker:x:998:me,you\n";
        assert_eq!(parse(file, "docker").map(Gid::as_raw), Some(998));
        assert_eq!(parse(file, "broken"), None);
        assert_eq!(parse(file, "none"), None);
        assert_eq!(find("12").map(Gid::as_raw), Some(12));
    }
}
