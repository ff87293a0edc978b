//! The files below `/etc` that tell a container about names: `resolv.conf` and `hosts`.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

/// Who answers where the host has only servers that a container cannot reach (Docker's choice as well).
const FALLBACK_DNS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// Content of a container's `/etc/resolv.conf`.
///
/// Nameservers, search domains and options each come from `--dns*` where given, otherwise from the host's file,
/// of which servers on a loopback address (they would mean the container itself) and on IPv6 (our networks carry
/// none yet) are left out. A search domain `.` means none at all.
pub fn resolv_conf(host: &str, dns: &[IpAddr], search: &[String], options: &[String]) -> String {
    let mut servers: Vec<String> = dns.iter().map(ToString::to_string).collect();
    if servers.is_empty() {
        let reachable = |word: &&str| matches!(word.parse(), Ok(IpAddr::V4(ip)) if !ip.is_loopback());
        servers = values(host, "nameserver")
            .filter_map(|line| line.first().copied().filter(reachable))
            .map(Into::into)
            .collect();
    }
    if servers.is_empty() {
        servers = FALLBACK_DNS.map(Into::into).to_vec();
    }
    let mut search = search.to_vec();
    if search.is_empty() {
        // The last line wins, and `domain` is another word for it.
        let line = lines(host).filter(|words| matches!(words.first(), Some(&"search" | &"domain"))).last();
        search = line.map(|words| words[1..].iter().map(ToString::to_string).collect()).unwrap_or_default();
    }
    search.retain(|domain| domain != ".");
    let mut options = options.to_vec();
    if options.is_empty() {
        options = values(host, "options").flatten().map(Into::into).collect();
    }

    let mut file = String::new();
    for server in servers {
        let _ = writeln!(file, "nameserver {server}");
    }
    if !search.is_empty() {
        let _ = writeln!(file, "search {}", search.join(" "));
    }
    if !options.is_empty() {
        let _ = writeln!(file, "options {}", options.join(" "));
    }
    file
}

/// The words of every line that says something.
fn lines(file: &str) -> impl Iterator<Item = Vec<&str>> {
    file.lines()
        .map(|line| line.split(['#', ';']).next().unwrap_or_default().split_whitespace().collect::<Vec<_>>())
        .filter(|words| !words.is_empty())
}

fn values<'a>(file: &'a str, keyword: &'a str) -> impl Iterator<Item = Vec<&'a str>> {
    lines(file).filter(move |words| words[0] == keyword).map(|words| words[1..].to_vec())
}

/// Content of a container's `/etc/hosts`, laid out as Docker does: the fixed names, `--add-host`, itself.
pub fn hosts_file(
    hostname: &str,
    domainname: &str,
    ip: Option<Ipv4Addr>,
    extra: &[(String, IpAddr)],
) -> String {
    let mut file = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for (name, address) in extra {
        let _ = writeln!(file, "{address}\t{name}");
    }
    if let Some(ip) = ip {
        let _ = match domainname {
            "" => writeln!(file, "{ip}\t{hostname}"),
            domain => writeln!(file, "{ip}\t{hostname}.{domain} {hostname}"),
        };
    }
    file
}

/// A hosts file in which the line of `name` has another address; what else stands in it stays.
pub fn move_host(file: &str, name: &str, address: IpAddr) -> String {
    let mut moved = String::with_capacity(file.len());
    for line in file.lines() {
        let mut words = line.split_whitespace();
        let names = match (words.next(), words.next()) {
            (Some(_), Some(first)) if first == name => line.trim_start().split_once(char::is_whitespace),
            _ => None,
        };
        match names {
            Some((_, names)) => moved.push_str(&format!("{address}\t{}", names.trim_start())),
            None => moved.push_str(line),
        }
        moved.push('\n');
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_leaves_out_what_a_container_cannot_reach() {
        let host = "# by resolved\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 2001:db8::1\nnameserver 10.0.0.2 # lan\n\
                    search old\nsearch example.com corp\noptions edns0 trust-ad\n";
        assert_eq!(
            resolv_conf(host, &[], &[], &[]),
            "nameserver 10.0.0.2\nsearch example.com corp\noptions edns0 trust-ad\n"
        );
        assert_eq!(
            resolv_conf("nameserver 127.0.0.53\n", &[], &[], &[]),
            "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
        );
        assert_eq!(resolv_conf("", &[], &[], &[]), "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
    }

    #[test]
    fn resolv_conf_prefers_what_the_user_said() {
        let host = "nameserver 10.0.0.2\nsearch example.com\noptions edns0\n";
        let dns: Vec<IpAddr> = vec!["1.1.1.1".parse().unwrap(), "2606:4700::1".parse().unwrap()];
        assert_eq!(
            resolv_conf(host, &dns, &["a.b".into()], &["ndots:2".into()]),
            "nameserver 1.1.1.1\nnameserver 2606:4700::1\nsearch a.b\noptions ndots:2\n"
        );
        assert_eq!(resolv_conf(host, &[], &[".".into()], &[]), "nameserver 10.0.0.2\noptions edns0\n");
    }

    #[test]
    fn a_name_moves_to_another_address_and_all_else_stays() {
        let file = "# mine\n10.0.0.1\tdb 3f2a store\n10.0.0.1\tdb2\n10.0.0.9\tweb\n";
        let moved = move_host(file, "db", "10.0.0.7".parse().unwrap());
        assert_eq!(moved, "# mine\n10.0.0.7\tdb 3f2a store\n10.0.0.1\tdb2\n10.0.0.9\tweb\n");
        assert_eq!(move_host(file, "none", "10.0.0.7".parse().unwrap()), file);
    }

    #[test]
    fn hosts_file_is_laid_out_as_dockers() {
        let extra = [("db".to_owned(), "10.1.1.1".parse().unwrap())];
        let file = hosts_file("web", "corp", Some(Ipv4Addr::new(172, 17, 0, 2)), &extra);
        assert!(
            file.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"),
            "{file}"
        );
        assert!(file.ends_with("10.1.1.1\tdb\n172.17.0.2\tweb.corp web\n"), "{file}");
        assert!(
            hosts_file("web", "", Some(Ipv4Addr::new(172, 17, 0, 2)), &[]).ends_with("172.17.0.2\tweb\n")
        );
        assert!(!hosts_file("web", "", None, &[]).contains("web"));
    }
}
