//! Values as bytes for the sockets between rbuild, its launcher and its host process.
//!
//! Both ends are the same binary of the same moment (one forked from the other), so there is no version and no schema;
//! numbers are little-endian, everything else is preceded by its length. Also: messages with descriptors attached.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use super::{Mount, MountKind, Process, Root, Stdio};

/// What can cross a socket.
pub(crate) trait Wire: Sized {
    /// Appends itself.
    fn put(&self, out: &mut Vec<u8>);
    /// Takes itself off the front; `None` if the bytes end too early or make no sense.
    fn take(input: &mut &[u8]) -> Option<Self>;
}

/// One value as bytes.
pub(crate) fn encode(value: &impl Wire) -> Vec<u8> {
    let mut out = Vec::new();
    value.put(&mut out);
    out
}

/// The value that `bytes` hold; an error if they hold none.
pub(crate) fn decode<T: Wire>(mut bytes: &[u8]) -> io::Result<T> {
    T::take(&mut bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed message"))
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl Wire for $number {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn take(input: &mut &[u8]) -> Option<Self> {
                let (head, rest) = input.split_first_chunk()?;
                *input = rest;
                Some(Self::from_le_bytes(*head))
            }
        }
    )*};
}
numbers!(u8 u16 u32 u64 i32 i64);

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        Some(u8::take(input)? != 0)
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        for item in self {
            item.put(out);
        }
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        let length = u32::take(input)?;
        (0..length).map(|_| T::take(input)).collect()
    }
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        out.extend_from_slice(self.as_bytes());
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        Self::from_utf8(Vec::take(input)?).ok()
    }
}

impl Wire for std::ffi::OsString {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        out.extend_from_slice(self.as_bytes());
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        Some(Self::from_vec(Vec::take(input)?))
    }
}

impl Wire for PathBuf {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_os_str().to_owned().put(out);
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        Some(std::ffi::OsString::take(input)?.into())
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        if bool::take(input)? { Some(Some(T::take(input)?)) } else { Some(None) }
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        Some((A::take(input)?, B::take(input)?))
    }
}

impl<A: Wire, B: Wire, C: Wire> Wire for (A, B, C) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
        self.2.put(out);
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        Some((A::take(input)?, B::take(input)?, C::take(input)?))
    }
}

/// Implements [`Wire`] for a struct, field by field.
macro_rules! wire_struct {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::exec::wire::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::exec::wire::Wire::put(&self.$field, out);)*
            }
            fn take(input: &mut &[u8]) -> Option<Self> {
                Some(Self { $($field: $crate::exec::wire::Wire::take(input)?),* })
            }
        }
    };
}
/// Implements [`Wire`] for an enum whose variants are empty or have named fields; the numbers are the tags.
macro_rules! wire_enum {
    ($name:ident { $($tag:literal => $variant:ident { $($field:ident),* }),* $(,)? }) => {
        impl $crate::exec::wire::Wire for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant { $($field),* } => {
                        out.push($tag);
                        $($crate::exec::wire::Wire::put($field, out);)*
                    })*
                }
            }
            fn take(input: &mut &[u8]) -> Option<Self> {
                match <u8 as $crate::exec::wire::Wire>::take(input)? {
                    $($tag => Some(Self::$variant { $($field: $crate::exec::wire::Wire::take(input)?),* }),)*
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use {wire_enum, wire_struct};

wire_struct!(Process {
    argv,
    env,
    cwd,
    uid,
    gid,
    groups,
    mounts,
    isolate_network,
    insecure,
    hostname,
    add_hosts,
    shm_size,
    ulimits,
    stdio,
});
wire_struct!(Mount { target, kind });
wire_enum!(Stdio { 0 => Captured {}, 1 => Inherited {} });
wire_enum!(MountKind {
    0 => Bind { source, readonly },
    1 => Stack { lowers, subpath, scratch },
    2 => Discard { source, scratch },
    3 => Tmpfs { size, mode, readonly },
    4 => File { content, executable, mode, uid, gid },
    5 => Socket { source, mode, uid, gid },
});

impl Wire for Root {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Overlay { lowers, upper, work } => {
                out.push(0);
                lowers.put(out);
                upper.put(out);
                work.put(out);
            }
            Self::Directory(path) => {
                out.push(1);
                path.put(out);
            }
        }
    }
    fn take(input: &mut &[u8]) -> Option<Self> {
        match u8::take(input)? {
            0 => {
                Some(Self::Overlay { lowers: Wire::take(input)?, upper: Wire::take(input)?, work: Wire::take(input)? })
            }
            1 => Some(Self::Directory(Wire::take(input)?)),
            _ => None,
        }
    }
}

/// Descriptors in one message at most (the kernel allows 253).
pub(crate) const MAX_FDS: usize = 16;
/// Bytes in one message at most; more goes into a memory file.
pub(crate) const MAX_MESSAGE: usize = 32 * 1024;

/// Sends one message, whole or not at all.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    loop {
        match sendmsg(&socket, &[io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Receives one message; an empty one without descriptors means that the other end is gone.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let length = loop {
        match recvmsg(&socket, &mut [io::IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => break message.bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    bytes.truncate(length);
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok((bytes, fds))
}

/// Lets the other end read the end of the conversation, while it can still answer. A message instead would make its answer
/// unreadable, should it close its end without having read that.
pub(crate) fn say_stop(socket: impl AsFd) {
    let _gone = rustix::net::shutdown(socket, rustix::net::Shutdown::Write);
}

/// A pair of connected sockets that keep message boundaries.
pub(crate) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// A file in memory that holds `bytes`, to be read from its start.
pub(crate) fn memory_file(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    use std::io::{Seek, Write};
    let mut file = std::fs::File::from(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_survives_the_trip() {
        let process = Process {
            argv: vec!["/bin/sh".into(), "-c".into(), "true".into()],
            env: vec![("PATH".into(), "/bin".into())],
            cwd: "/".into(),
            uid: 1,
            gid: 2,
            groups: vec![3, 4],
            mounts: vec![
                Mount { target: "/a".into(), kind: MountKind::Tmpfs { size: Some(1), mode: None, readonly: true } },
                Mount {
                    target: "/b".into(),
                    kind: MountKind::File { content: vec![0, 255], executable: true, mode: 0o400, uid: 5, gid: 6 },
                },
                Mount {
                    target: "/c".into(),
                    kind: MountKind::Stack {
                        lowers: vec!["/x".into()],
                        subpath: "y".into(),
                        scratch: Some("/z".into()),
                    },
                },
            ],
            isolate_network: true,
            insecure: false,
            hostname: "h".into(),
            add_hosts: vec![("n".into(), "::1".into())],
            shm_size: None,
            ulimits: vec![("nofile".into(), -1, 7)],
            stdio: Stdio::Captured,
        };
        let bytes = encode(&process);
        let back: Process = decode(&bytes).expect("decodes");
        assert_eq!(format!("{process:?}"), format!("{back:?}"));
        for end in 0..bytes.len() {
            assert!(decode::<Process>(&bytes[..end]).is_err(), "cut at {end}");
        }
    }
}
