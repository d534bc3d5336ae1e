//! Finding and starting the program; the faults are worded as runc words them.

use std::ffi::CString;
use std::io::Read;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, stat};
use rustix::io::Errno;

use super::{During, Fault, plain};
use crate::exec::{Process, kernel};

/// Becomes the program.
pub(super) fn execute(process: &Process) -> Result<std::convert::Infallible, Fault> {
    let name = process.argv.first().map_or("", String::as_str);
    let search = process.env.iter().rev().find(|(key, _)| key == "PATH").map_or("", |(_, value)| value.as_str());
    let path = find(name, search)?;
    let strings = |texts: &mut dyn Iterator<Item = String>| -> Result<Vec<CString>, Fault> {
        let whole = |text: String| {
            let start = text.split('\0').next().unwrap_or_default().to_owned();
            let what = start.split_once('=').map_or(start.as_str(), |(name, _)| name);
            let refused = format!("argument or environment variable can't contain null(\\x00): {what:?}");
            CString::new(text).map_err(|_| Fault::Refused(refused))
        };
        texts.map(whole).collect()
    };
    if is_rbuild(&path) {
        return Err(Fault::NotExecutable(format!("exec: {name:?}: leads to rbuild itself")));
    }
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
            if !path.starts_with('/') {
                let text = format!("exec: {name:?}: cannot run executable found relative to current directory");
                return Err(Fault::NotExecutable(text));
            }
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

/// Interpreters of interpreters that the kernel follows.
const MAX_INTERPRETERS: u32 = 5;

/// Whether `path`, or the interpreter that its `#!` line names, is the binary of this very process: by `/proc/self/exe` an
/// image could have it started under its own libraries, and then hold a descriptor of a file of the host. The kernel lets
/// nobody write to a binary that is being executed, as rbuild is while steps run, but some kernels (6.11, 6.12) do.
fn is_rbuild(path: &str) -> bool {
    let Ok(own) = stat("/proc/self/exe") else { return false };
    let mut path = path.to_owned();
    for _ in 0..MAX_INTERPRETERS {
        if stat(&*path).is_ok_and(|found| (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)) {
            return true;
        }
        let mut line = [0; 256];
        let read = std::fs::File::open(&path).and_then(|mut file| file.read(&mut line)).unwrap_or(0);
        let Some(rest) = line[..read].strip_prefix(b"#!") else { return false };
        let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let Some(next) = String::from_utf8_lossy(line).split_whitespace().next().map(str::to_owned) else {
            return false;
        };
        path = next;
    }
    false
}
