//! Paths as text: cleaning and joining as Dockerfiles mean them. Opens nothing and follows no link.

/// The lexically cleaned form of an absolute path: no `.`, `..`, `//` nor trailing `/`; `..` stops at the root.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// A relative or absolute path in lexically cleaned form; a relative one stays relative, `""` becomes `.`.
pub(crate) fn clean_keeping_relative(path: &str) -> String {
    if path.starts_with('/') {
        return clean(path);
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

/// `path` seen from the directory `base`, cleaned; a trailing `/` or `/.` (a directory is meant) stays as `/`.
pub(crate) fn destination(base: &str, path: &str) -> String {
    let is_dir = path.is_empty() || path == "." || path.ends_with('/') || path.ends_with("/.");
    let joined = absolute(base, path);
    if is_dir && joined != "/" { joined + "/" } else { joined }
}

/// `path` seen from the directory `base`, cleaned.
pub(crate) fn absolute(base: &str, path: &str) -> String {
    if path.starts_with('/') { clean(path) } else { clean(&format!("{base}/{path}")) }
}

/// WORKDIR as the config keeps it: an absolute path as written, a relative one joined to the current and cleaned.
pub(crate) fn workdir(current: &str, path: &str) -> String {
    match path {
        "" if current.is_empty() => "/".to_owned(),
        "" if current.starts_with('/') => current.to_owned(),
        "" => format!("/{current}"),
        path if path.starts_with('/') => path.to_owned(),
        path => absolute(&format!("/{current}"), path),
    }
}

/// The last segment of a path, `/` for the root.
pub(crate) fn base_name(path: &str) -> String {
    let cleaned = clean_keeping_relative(path);
    cleaned.rsplit('/').next().filter(|name| !name.is_empty()).map_or_else(|| "/".to_owned(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_workdirs_stay_as_written() {
        for (current, path, expected) in [
            ("/", "/x/./y//z/", "/x/./y//z/"),
            ("/a", "b/../c/", "/a/c"),
            ("", "b", "/b"),
            ("/a", "..", "/"),
            ("/a/", "b", "/a/b"),
            ("/a", "", "/a"),
            ("", "", "/"),
        ] {
            assert_eq!(workdir(current, path), expected, "{current} {path}");
        }
    }

    #[test]
    fn destinations_keep_the_slash_that_means_a_directory() {
        for (base, path, expected) in [
            ("/w", "a", "/w/a"),
            ("/w", "a/", "/w/a/"),
            ("/w", ".", "/w/"),
            ("/w", "", "/w/"),
            ("/", ".", "/"),
            ("/w", "/x/.", "/x/"),
            ("/w", "/x/../y", "/y"),
            ("/w", "../..", "/"),
        ] {
            assert_eq!(destination(base, path), expected, "{base} {path}");
        }
    }

    #[test]
    fn relative_paths_stay_relative() {
        assert_eq!(clean_keeping_relative("./a//b/.."), "a");
        assert_eq!(clean_keeping_relative("../a"), "../a");
        assert_eq!(clean_keeping_relative(""), ".");
        assert_eq!(base_name("a/b/"), "b");
        assert_eq!(base_name("/"), "/");
    }
}
