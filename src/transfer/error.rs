//! What can be wrong with a COPY, ADD or WORKDIR, in BuildKit's words, with what a user needs to know besides.
//!
//! Knows no Dockerfile line: errors name the source by its place in the instruction, the caller knows where that stands.

use std::io;

use super::TreeError;
use super::glob::BadPattern;
use super::pattern::PatternError;
use crate::dockerfile::quote::quoted;
use crate::tar::entry::LayerPath;

/// The label of the main context's tree.
const CONTEXT: &str = "context";

/// Why a transfer cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A source is not there.
    #[error("failed to calculate checksum of ref {label}: {}: not found", quoted(&path.to_string()))]
    NotFound {
        /// Its place among the sources.
        source_index: usize,
        /// The name of the tree: `context`, a stage's or image's name.
        label: String,
        /// The path looked for, absolute in that tree.
        path: LayerPath,
        /// Why it is not there.
        absence: Absence,
    },
    /// The directory before a source's first wildcard is not there.
    #[error("lstat {path}: no such file or directory")]
    NoDirectory {
        /// Its place among the sources.
        source_index: usize,
        /// The directory, links followed.
        path: LayerPath,
        /// Why it is not there.
        absence: Absence,
    },
    /// A wildcard with bad syntax.
    #[error("{pattern:?}: syntax error in pattern")]
    Wildcard {
        /// Its place among the sources.
        source_index: usize,
        /// The path as written.
        pattern: String,
    },
    /// A bad `--exclude` or `--parents` pattern.
    #[error("invalid pattern: {0}")]
    Pattern(#[from] PatternError),
    /// A directory is to be put where something else is.
    #[error("cannot copy to non-directory: {0}")]
    NonDirectory(LayerPath),
    /// A file is to be put where a directory is.
    #[error("cannot replace to directory {0} with file")]
    OverDirectory(LayerPath),
    /// A parent of the destination (or WORKDIR) is not a directory.
    #[error("mkdir {0}: not a directory")]
    NotADirectory(LayerPath),
    /// Symlinks go round in circles.
    #[error("{0}: too many links")]
    TooManyLinks(LayerPath),
    /// `--chmod` cannot be understood.
    #[error("invalid chmod parameter: '{0}'. it should be octal string and between 0 and 07777")]
    Chmod(String),
    /// `--chown` uses a name where there is no file system to look it up in.
    #[error("invalid user index: -1: {label} has no /{file} to look up {name:?} in")]
    NoUserFile {
        /// The name that was to be looked up.
        name: String,
        /// `etc/passwd` or `etc/group`.
        file: &'static str,
        /// What has no such file.
        label: &'static str,
    },
    /// `/etc/passwd` or `/etc/group` is too large or not a file.
    #[error("{0}")]
    UserFile(String),
    /// An archive is damaged or holds what cannot be unpacked.
    #[error("failed to unpack {path}: {reason}")]
    Archive {
        /// Its place among the sources.
        source_index: usize,
        /// The archive.
        path: LayerPath,
        /// What is wrong.
        reason: String,
    },
    /// A tree could not be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The scratch file for unpacked archives could not be written.
    #[error("failed to write unpacked files: {0}")]
    Spool(#[source] io::Error),
}

/// What is known about a path that is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Absence {
    /// Nothing more.
    #[default]
    Missing,
    /// It exists, but an ignore file hides it.
    Ignored {
        /// The ignore file.
        file: String,
        /// 1-based line in it.
        line: u32,
        /// The pattern.
        pattern: String,
    },
    /// It is a symlink (or leads through one) to something that is not there.
    Dangling {
        /// Where the links lead.
        target: LayerPath,
    },
    /// A part of the path is not a directory.
    NotADirectory(LayerPath),
    /// It exists with other upper and lower case letters.
    Case(LayerPath),
    /// Names that look similar.
    Similar(Vec<LayerPath>),
}

impl TransferError {
    /// The place of the source that is to blame, if one is.
    pub fn source_index(&self) -> Option<usize> {
        match self {
            Self::NotFound { source_index, .. }
            | Self::NoDirectory { source_index, .. }
            | Self::Wildcard { source_index, .. }
            | Self::Archive { source_index, .. } => Some(*source_index),
            Self::Pattern(_)
            | Self::NonDirectory(_)
            | Self::OverDirectory(_)
            | Self::NotADirectory(_)
            | Self::TooManyLinks(_)
            | Self::Chmod(_)
            | Self::NoUserFile { .. }
            | Self::UserFile(_)
            | Self::Tree(_)
            | Self::Spool(_) => None,
        }
    }

    /// A line that helps the user out, if we know one.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NotFound { absence: Absence::Missing, label, .. } if label == CONTEXT => {
                Some("sources are looked for in the build context only, whether they begin with / or ../".to_owned())
            }
            Self::NotFound { absence, .. } => absence.help(),
            Self::NoDirectory { absence, .. } => absence.help().or_else(|| {
                Some("a wildcard may match nothing, but the directory before it has to be there".to_owned())
            }),
            Self::NoUserFile { name, .. } => Some(format!(
                "names are looked up in the stage that is copied to; write the number of {name:?} instead"
            )),
            Self::NonDirectory(path) => Some(format!("{path} exists and is not a directory; --link would replace it")),
            Self::OverDirectory(path) => Some(format!("{path} exists and is a directory; --link would replace it")),
            Self::Archive { .. } => Some("--unpack=false copies the file as it is".to_owned()),
            Self::Wildcard { .. }
            | Self::Pattern(_)
            | Self::NotADirectory(_)
            | Self::TooManyLinks(_)
            | Self::Chmod(_)
            | Self::UserFile(_)
            | Self::Tree(_)
            | Self::Spool(_) => None,
        }
    }

    pub(super) fn wildcard(source_index: usize, pattern: &str) -> impl Fn(BadPattern) -> Self + '_ {
        move |BadPattern| Self::Wildcard { source_index, pattern: pattern.to_owned() }
    }
}

impl Absence {
    /// A line that helps the user out, if we know one.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Missing => None,
            Self::Ignored { file, line, pattern } => Some(format!("it is excluded by {file}:{line}: {pattern}")),
            Self::Dangling { target } => Some(format!("it is a symbolic link to {target}, which does not exist")),
            Self::NotADirectory(path) => Some(format!("{path} is not a directory")),
            Self::Case(path) => Some(format!("there is {path}; names are case-sensitive")),
            Self::Similar(paths) => match paths.as_slice() {
                [] => None,
                [one] => Some(format!("did you mean {one}?")),
                many => {
                    let names: Vec<_> = many.iter().map(ToString::to_string).collect();
                    Some(format!("did you mean one of {}?", names.join(", ")))
                }
            },
        }
    }
}
