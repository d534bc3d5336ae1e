//! Finding and starting the program; the faults are worded as runc words them.

use std::ffi::CString;
use std::io;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, stat};
use rustix::io::Errno;

use super::{During, Fault};
use crate::exec::{Process, kernel};

/// Becomes the program.
pub(super) fn execute(process: &Process) -> Result<std::convert::Infallible, Fault> {
    let name = process.argv.first().map_or("", String::as_str);
    let search = process.env.iter().rev().find(|(key, _)| key == "PATH").map_or("", |(_, value)| value.as_str());
    let path = find(name, search)?;
    let strings = |texts: &mut dyn Iterator<Item = String>| -> Result<Vec<CString>, Fault> {
        texts.map(|text| CString::new(text).during("argument or variable with a zero byte")).collect()
    };
    let argv = strings(&mut process.argv.iter().cloned())?;
    let env = strings(&mut process.env.iter().map(|(key, value)| format!("{key}={value}")))?;
    let error = kernel::execute(&CString::new(path.clone()).during("program name with a zero byte")?, &argv, &env);
    Err(Fault::NotExecutable(format!("exec {path}: {}", plain(&error))))
}

fn find(name: &str, search: &str) -> Result<String, Fault> {
    if name.contains('/') {
        return match check(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(Errno::NOENT | Errno::NOTDIR) => {
                Err(Fault::NotExecutable(format!("exec: {name:?}: stat {name}: no such file or directory")))
            }
            Err(errno) => Err(Fault::NotExecutable(format!("exec: {name:?}: {}", plain(&errno.into())))),
        };
    }
    let candidates = search.split(':').filter(|_| !name.is_empty() && !search.is_empty());
    for directory in candidates {
        let directory = if directory.is_empty() { "." } else { directory };
        let path = Path::new(directory).join(name).to_string_lossy().into_owned();
        if check(&path).is_ok() {
            return Ok(path);
        }
    }
    Err(Fault::NotExecutable(format!("exec: {name:?}: executable file not found in $PATH")))
}

fn check(path: &str) -> Result<(), Errno> {
    let found = stat(path)?;
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    // Root passes the second test for any file, but executes none without such a bit.
    if found.st_mode & 0o111 == 0 {
        return Err(Errno::ACCESS);
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
}

/// The system's text in lower case and without its number, as Go prints it.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().collect::<String>() + letters.as_str())
}
