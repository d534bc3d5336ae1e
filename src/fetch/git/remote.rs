//! Addresses of repositories as text: which transports are allowed, what a submodule's relative address means, what of an
//! address may be shown. Pure.

use std::borrow::Cow;

/// Transports git may use, as it wants them in `GIT_ALLOW_PROTOCOL`. Neither local paths nor remote helpers, which run commands.
pub(super) const ALLOWED: &str = "git:http:https:ssh";

/// Shown in place of user and password, as BuildKit does.
const REDACTED: &str = "xxxxx";

/// Why an address is refused; `None` if it is not.
pub(super) fn refusal(address: &str) -> Option<String> {
    if address.starts_with('-') || address.chars().any(char::is_control) {
        return Some(format!("invalid git remote {address:?}"));
    }
    let transport = transport(address);
    if ALLOWED.split(':').any(|allowed| allowed == transport) {
        return None;
    }
    Some(format!("transport '{transport}' not allowed: {}", redacted(address)))
}

/// What git would use for an address: its scheme, the helper with its `::`, `ssh` for `host:path`, `file` for a path.
fn transport(address: &str) -> Cow<'_, str> {
    let word = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    };
    if let Some(at) = address.find("::").filter(|at| word(&address[..*at])) {
        return Cow::Borrowed(&address[..at + 2]);
    }
    if let Some((scheme, _)) = address.split_once("://").filter(|(scheme, _)| word(scheme)) {
        return Cow::Owned(scheme.to_ascii_lowercase());
    }
    match (address.find(':'), address.find('/')) {
        (Some(colon), Some(slash)) if slash < colon => Cow::Borrowed("file"),
        (Some(_), _) => Cow::Borrowed("ssh"),
        (None, _) => Cow::Borrowed("file"),
    }
}

/// Whether fetching it runs ssh.
pub(super) fn is_ssh(address: &str) -> bool {
    transport(address) == "ssh"
}

/// The address of a submodule; one that begins with `./` or `../` is relative to the address of the repository it is in.
pub(super) fn of_submodule(parent: &str, address: &str) -> String {
    if !address.starts_with("./") && !address.starts_with("../") {
        return address.to_owned();
    }
    let mut base = parent.trim_end_matches('/');
    let mut rest = address;
    let mut separator = '/';
    loop {
        if let Some(tail) = rest.strip_prefix("../") {
            rest = tail;
            // The host of `user@host:path` ends in a colon, which `..` may reach but not cross.
            match base.rfind('/').or_else(|| base.rfind(':').inspect(|_| separator = ':')) {
                Some(at) => base = &base[..at],
                None => return address.to_owned(),
            }
        } else if let Some(tail) = rest.strip_prefix("./") {
            rest = tail;
        } else {
            break;
        }
    }
    format!("{base}{separator}{}", rest.trim_end_matches('/'))
}

/// The address without user and password, for messages.
pub fn redacted(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let Some((user, _)) = authority.rsplit_once('@') else { return address.to_owned() };
    let shown = if user.contains(':') { format!("{REDACTED}:{REDACTED}") } else { REDACTED.to_owned() };
    // A user alone is no secret to ssh.
    if !user.contains(':') && is_ssh(address) {
        return address.to_owned();
    }
    format!("{scheme}://{shown}{}", &rest[user.len()..])
}

/// Host, and port if there is one, of an http(s) address.
pub(super) fn http_host(address: &str) -> Option<&str> {
    let (scheme, rest) = address.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    Some(authority.rsplit_once('@').map_or(authority, |(_, host)| host))
}

/// Scheme and host of an http(s) address: where a credential of that host may go.
pub(super) fn origin(address: &str) -> Option<String> {
    let (scheme, _) = address.split_once("://")?;
    http_host(address).map(|host| format!("{}://{host}/", scheme.to_ascii_lowercase()))
}

/// Where a credential without a host may go: to this repository. On GitHub it is good for all of it, so that private
/// submodules work.
pub(super) fn token_scope(address: &str) -> String {
    for site in ["https://github.com/", "https://www.github.com/"] {
        if origin(address).is_some_and(|origin| origin == site) {
            return site.to_owned();
        }
    }
    let path = address.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    origin(address).unwrap_or_default() + path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_network_transports_are_allowed() {
        for address in
            ["https://h/a.git", "HTTP://h/a", "git://h/a", "ssh://h/a", "git@h:a", "h:a/b", "https://[::1]/a"]
        {
            assert_eq!(refusal(address), None, "{address}");
        }
        for (address, transport) in [
            ("file:///srv/a", "file"),
            ("/srv/a", "file"),
            ("../a", "file"),
            ("./h:a", "file"),
            ("a", "file"),
            ("ext::sh -c 'touch /tmp/x'", "ext::"),
            ("fd::17", "fd::"),
            ("http::https://h/a", "http::"),
            ("ftp://h/a", "ftp"),
            ("git+ssh://h/a", "git+ssh"),
        ] {
            assert_eq!(refusal(address), Some(format!("transport '{transport}' not allowed: {address}")));
        }
        for address in ["-oProxyCommand=x", "--upload-pack=x", "https://h/a\nb"] {
            assert_eq!(refusal(address), Some(format!("invalid git remote {address:?}")));
        }
    }

    #[test]
    fn addresses_of_submodules() {
        let check = |parent: &str, address: &str, expected: &str| assert_eq!(of_submodule(parent, address), expected);
        check("https://h/o/r.git", "https://x/y", "https://x/y");
        check("https://h/o/r.git", "../s.git", "https://h/o/s.git");
        check("https://h/o/r.git/", "../s.git", "https://h/o/s.git");
        check("https://h/o/r.git", "../../p/s.git/", "https://h/p/s.git");
        check("https://h/o/r.git", "./s", "https://h/o/r.git/s");
        check("https://h/o/r.git", ".././s", "https://h/o/s");
        check("git@h:o/r.git", "../s.git", "git@h:o/s.git");
        check("git@h:r.git", "../s.git", "git@h:s.git");
        check("git@h:r.git", "../../../s.git", "../../../s.git");
        check("https://h/o/r.git", "/srv/x", "/srv/x");
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(redacted("https://u:p@h/r.git"), "https://xxxxx:xxxxx@h/r.git");
        assert_eq!(redacted("https://token@h/r.git"), "https://xxxxx@h/r.git");
        assert_eq!(redacted("ssh://git@h/r.git"), "ssh://git@h/r.git");
        assert_eq!(redacted("https://h/a@b.git"), "https://h/a@b.git");
        assert_eq!(redacted("git@h:r.git"), "git@h:r.git");
    }

    #[test]
    fn hosts() {
        assert_eq!(http_host("https://u:p@h:80/r.git"), Some("h:80"));
        assert_eq!(http_host("http://[::1]:80/r"), Some("[::1]:80"));
        assert_eq!(http_host("ssh://h/r"), None);
        assert_eq!(origin("HTTPS://u@h/r").as_deref(), Some("https://h/"));
        assert_eq!(token_scope("https://u:p@h:1/o/r.git"), "https://h:1/o/r.git");
        assert_eq!(token_scope("https://github.com/o/r.git"), "https://github.com/");
        assert_eq!(token_scope("https://github.com.evil/o/r.git"), "https://github.com.evil/o/r.git");
    }
}
