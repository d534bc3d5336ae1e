//! Users and groups by name: the texts of `/etc/passwd` and `/etc/group` in, numbers out.
//!
//! There are two rules on purpose: a process (USER, [`process_user`]) fails for an unknown name and has supplementary groups;
//! the owner of copied files (`--chown`, WORKDIR, [`owner`]) quietly is 0:0 then (observed 26, 42). Pure over text.

/// Most bytes of a passwd or group file that are read.
pub const MAX_USER_FILE: u64 = 10 << 20;
/// Largest user or group number that may be asked for.
const MAX_ID: u32 = i32::MAX as u32;

/// Who a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessUser {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups to be set: the primary one first, then those that list the user, in the order of the file.
    pub groups: Vec<u32>,
    /// Home directory, `/` if none is known.
    pub home: String,
}

/// A user or group cannot be found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// A name that is not in passwd.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// A name that is not in group.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    /// A number that no process can have.
    #[error("uids and gids must be in range 0-2147483647")]
    Range,
}

/// Resolves the text of USER for a process. `None` stands for a missing file.
pub fn process_user(passwd: Option<&[u8]>, group: Option<&[u8]>, text: &str) -> Result<ProcessUser, UserError> {
    let default = text.is_empty();
    let mut parts = (if default { "0" } else { text }).split(':');
    let (user, group_text) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let named = |uid: u32, gid: u32, further: Vec<u32>| {
        let mut groups = vec![gid];
        groups.extend(further.into_iter().filter(|g| *g != gid));
        ProcessUser { uid, gid, groups, home: home_of(passwd, uid) }
    };
    // Two numbers need no file, and get no further groups.
    if text.contains(':')
        && let (Some(uid), Some(gid)) = (plain_id(user), plain_id(group_text))
    {
        return Ok(named(uid, gid, Vec::new()));
    }
    let uid = number(user)?;
    let gid = number(group_text)?;
    let entry = lines(passwd).map(User::parse).find(|u| match uid {
        Some(uid) => u.uid == uid,
        None if user.is_empty() => u.uid == 0,
        None => u.name == user.as_bytes(),
    });
    let (found_uid, found_gid) = match (&entry, uid) {
        (Some(entry), _) => (entry.uid, entry.gid),
        (None, Some(uid)) => (uid, 0),
        (None, None) if user.is_empty() => (0, 0),
        (None, None) => return Err(UserError::NoUser(user.to_owned())),
    };
    let mut groups = lines(group).map(Group::parse);
    if !group_text.is_empty() {
        let found = groups.find(|g| gid.map_or(g.name == group_text.as_bytes(), |gid| g.gid == gid));
        let gid = found.map(|g| g.gid).or(gid).ok_or_else(|| UserError::NoGroup(group_text.to_owned()))?;
        return Ok(named(found_uid, gid, Vec::new()));
    }
    let further = match &entry {
        Some(entry) => groups.filter(|g| g.has_member(entry.name)).map(|g| g.gid).collect(),
        None => Vec::new(),
    };
    Ok(named(found_uid, found_gid, further))
}

/// The home directory of a user number, `/` if none is known.
pub fn home_of(passwd: Option<&[u8]>, uid: u32) -> String {
    let home = lines(passwd).map(User::parse).find(|u| u.uid == uid).map(|u| u.home).unwrap_or_default();
    if home.is_empty() { "/".to_owned() } else { String::from_utf8_lossy(home).into_owned() }
}

/// A user file that a name has to be looked up in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserFile {
    /// `/etc/passwd`
    Passwd,
    /// `/etc/group`
    Group,
}

impl UserFile {
    /// Its path, relative to the root.
    pub fn path(self) -> &'static str {
        match self {
            Self::Passwd => "etc/passwd",
            Self::Group => "etc/group",
        }
    }
}

/// Resolves the text of `--chown` (or USER for a WORKDIR) to owner and group, asking for files only when names are used.
/// A user number is also the group; a user name brings its passwd group; unknown and empty names are 0.
pub fn owner<E>(text: &str, mut file: impl FnMut(UserFile, &str) -> Result<Vec<u8>, E>) -> Result<(u32, u32), E> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let (uid, mut gid) = if let Some(id) = owner_id(user) {
        (id, id)
    } else {
        let passwd = file(UserFile::Passwd, user)?;
        let found = lines(Some(&passwd)).map(User::parse).find(|u| u.name == user.as_bytes());
        found.map_or((0, 0), |u| (u.uid, u.gid))
    };
    match group.map(|group| (group, owner_id(group))) {
        None => {}
        Some((_, Some(id))) => gid = id,
        Some((name, None)) => {
            let text = file(UserFile::Group, name)?;
            if let Some(found) = lines(Some(&text)).map(Group::parse).find(|g| g.name == name.as_bytes()) {
                gid = found.gid;
            }
        }
    }
    Ok((uid, gid))
}

/// The number an owner's text is without looking anything up. As in BuildKit signs are fine, -2 is a large number, -1 leaves
/// what is made as it is, and what does not fit is a name.
fn owner_id(text: &str) -> Option<u32> {
    match text {
        "" | "root" | "-1" => Some(0),
        number => number.parse::<i32>().ok().map(i32::cast_unsigned),
    }
}

/// A number, or `root`, which is 0 everywhere.
fn plain_id(text: &str) -> Option<u32> {
    if text == "root" {
        return Some(0);
    }
    text.parse().ok().filter(|id| *id <= MAX_ID)
}

fn number(text: &str) -> Result<Option<u32>, UserError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<i64>() {
        Ok(id) if (0..=i64::from(MAX_ID)).contains(&id) => Ok(Some(id as u32)),
        _ => Err(UserError::Range),
    }
}

fn lines(text: Option<&[u8]>) -> impl Iterator<Item = &[u8]> {
    let lines = text.unwrap_or_default().split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
    lines.filter(|line| !line.is_empty() && line[0] != b'#')
}

/// A field as a number; what is none counts as 0.
fn field_id(field: Option<&[u8]>) -> u32 {
    field.and_then(|f| std::str::from_utf8(f).ok()).and_then(|f| f.parse().ok()).unwrap_or(0)
}

struct User<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

impl<'a> User<'a> {
    fn parse(line: &'a [u8]) -> Self {
        let fields: Vec<_> = line.split(|b| *b == b':').collect();
        let field = |i: usize| fields.get(i).copied();
        Self {
            name: field(0).unwrap_or_default(),
            uid: field_id(field(2)),
            gid: field_id(field(3)),
            home: field(5).unwrap_or_default(),
        }
    }
}

struct Group<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

impl<'a> Group<'a> {
    fn parse(line: &'a [u8]) -> Self {
        let fields: Vec<_> = line.split(|b| *b == b':').collect();
        let field = |i: usize| fields.get(i).copied();
        Self { name: field(0).unwrap_or_default(), gid: field_id(field(2)), members: field(3).unwrap_or_default() }
    }

    fn has_member(&self, name: &[u8]) -> bool {
        self.members.split(|b| *b == b',').any(|member| member == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n# x\n\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
        bob:x:1500:1600::/hb:/bin/sh\nnohome:x:7:8\n";
    const GROUP: &[u8] =
        b"root:x:0:\nwheel:x:10:root\ndisk:x:6:root\nbobg:x:1600:\nextra:x:1700:bob\nmore:x:1800:x,bob\n";

    fn check(text: &str, expected: &str) {
        let found = process_user(Some(PASSWD), Some(GROUP), text);
        let got = found.map_or_else(|e| e.to_string(), |u| format!("{}:{} {:?} {}", u.uid, u.gid, u.groups, u.home));
        assert_eq!(got, expected, "USER {text}");
    }

    #[test]
    fn observed_42_users_of_processes() {
        check("bob", "1500:1600 [1600, 1700, 1800] /hb");
        check("1500", "1500:1600 [1600, 1700, 1800] /hb");
        check("bob:extra", "1500:1700 [1700] /hb");
        check("bob:5", "1500:5 [5] /hb");
        check("", "0:0 [0, 10, 6] /root");
        check("root", "0:0 [0, 10, 6] /root");
        check("0", "0:0 [0, 10, 6] /root");
        check("0:0", "0:0 [0] /root");
        check("4711", "4711:0 [0] /");
        check("4711:4712", "4711:4712 [4712] /");
        check("nohome", "7:8 [8] /");
        check("nosuch", "unable to find user nosuch: no matching entries in passwd file");
        check("bob:nosuch", "unable to find group nosuch: no matching entries in group file");
        check("2147483648", "uids and gids must be in range 0-2147483647");
    }

    #[test]
    fn without_files_numbers_work() {
        assert_eq!(process_user(None, None, "").map(|u| (u.uid, u.home)), Ok((0, "/".to_owned())));
        assert_eq!(process_user(None, None, "5").map(|u| (u.uid, u.gid)), Ok((5, 0)));
        assert_eq!(process_user(None, None, "bob"), Err(UserError::NoUser("bob".to_owned())));
        assert_eq!(process_user(None, None, "root"), Err(UserError::NoUser("root".to_owned())));
    }

    #[test]
    fn observed_26_owners_of_files() {
        let check = |text: &str, expected: &str| {
            let mut asked = Vec::new();
            let got = owner::<()>(text, |file, _| {
                asked.push(file);
                Ok(if file == UserFile::Passwd { PASSWD.to_vec() } else { GROUP.to_vec() })
            });
            assert_eq!(format!("{:?} {asked:?}", got.expect("no error")), expected, "--chown={text}");
        };
        check("bob", "(1500, 1600) [Passwd]");
        check("1500", "(1500, 1500) []");
        check(":33", "(0, 33) []");
        check("7:", "(7, 0) []");
        check(":", "(0, 0) []");
        check("-1:+5", "(0, 5) []");
        check("-2", "(4294967294, 4294967294) []");
        check("2147483648", "(0, 0) [Passwd]");
        check("bob:33", "(1500, 33) [Passwd]");
        check("5:extra", "(5, 1700) [Group]");
        check("nosuch:nosuchg", "(0, 0) [Passwd, Group]");
        check("bob:nosuchg", "(1500, 1600) [Passwd, Group]");
        check("root", "(0, 0) []");
        check("root:root", "(0, 0) []");
        check("7:8", "(7, 8) []");
    }
}
