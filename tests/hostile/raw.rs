//! Tar archives byte by byte: what no honest program writes.

/// One member.
#[derive(Clone)]
pub struct Member {
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub flag: u8,
    pub mode: u32,
    pub device: (u32, u32),
    pub content: Vec<u8>,
}

pub fn file(name: &str, content: &str) -> Member {
    let content = content.as_bytes().to_vec();
    Member { name: name.into(), link: Vec::new(), flag: b'0', mode: 0o644, device: (0, 0), content }
}

pub fn dir(name: &str) -> Member {
    Member { flag: b'5', mode: 0o755, ..file(name, "") }
}

pub fn symlink(name: &str, target: &str) -> Member {
    Member { flag: b'2', mode: 0o777, link: target.into(), ..file(name, "") }
}

pub fn hardlink(name: &str, target: &str) -> Member {
    Member { flag: b'1', link: target.into(), ..file(name, "") }
}

pub fn device(name: &str, flag: u8, major: u32, minor: u32) -> Member {
    Member { flag, mode: 0o666, device: (major, minor), ..file(name, "") }
}

pub fn fifo(name: &str) -> Member {
    Member { flag: b'6', ..file(name, "") }
}

/// A member whose kind is this byte.
pub fn flagged(flag: u8, name: &str, content: Vec<u8>) -> Member {
    Member { flag, content, ..file(name, "") }
}

/// A PAX header with one record, which goes before the member it is about.
pub fn pax(key: &str, value: &str) -> Member {
    let mut length = key.len() + value.len() + 3;
    loop {
        let record = format!("{length} {key}={value}\n");
        if record.len() == length {
            return flagged(b'x', "PaxHeaders/x", record.into_bytes());
        }
        length = record.len();
    }
}

/// The header block; names that do not fit are cut, unless a PAX or GNU header goes before.
pub fn header(member: &Member, size: u64) -> [u8; 512] {
    let mut block = [0_u8; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &member.name[..member.name.len().min(100)]);
    put(100, format!("{:07o}\0", member.mode).as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[member.flag]);
    put(157, &member.link[..member.link.len().min(100)]);
    put(257, b"ustar\x0000");
    put(329, format!("{:07o}\0", member.device.0).as_bytes());
    put(337, format!("{:07o}\0", member.device.1).as_bytes());
    sign(&mut block);
    block
}

/// Makes the checksum right.
pub fn sign(block: &mut [u8; 512]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Members whose names are too long for the header get a GNU long name in front.
pub fn tar(members: &[Member]) -> Vec<u8> {
    let mut out = Vec::new();
    for member in members {
        for (flag, text) in [(b'L', &member.name), (b'K', &member.link)] {
            if text.len() > 100 {
                let mut content = text.clone();
                content.push(0);
                append(&mut out, &flagged(flag, "././@LongLink", content));
            }
        }
        append(&mut out, member);
    }
    out.extend([0; 1024]);
    out
}

fn append(out: &mut Vec<u8>, member: &Member) {
    out.extend(header(member, member.content.len() as u64));
    out.extend(&member.content);
    out.resize(out.len().next_multiple_of(512), 0);
}
