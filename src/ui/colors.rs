//! Colours of the live display, and the text of `BUILDKIT_COLORS` that changes them.
//!
//! Pure; the caller reads the environment.

use std::fmt::Write as _;

/// A foreground colour: the parameters of an SGR escape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// One of the terminal's named colours: SGR 30-39, 90-97.
    Named(u8),
    /// One of the 256 fixed colours.
    Fixed(u8),
}

impl Color {
    /// `text` in this colour.
    pub fn paint(self, text: &str) -> String {
        match self {
            Self::Named(code) => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Self::Fixed(code) => format!("\u{1b}[38;5;{code}m{text}\u{1b}[0m"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        const NAMES: [&str; 8] = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];
        let text = text.to_lowercase();
        if text == "default" {
            return Some(Self::Named(39));
        }
        let (name, base) = text.strip_prefix("light-").map_or((text.as_str(), 30), |name| (name, 90));
        if let Some(index) = NAMES.iter().position(|known| *known == name) {
            return Some(Self::Named(base + index as u8));
        }
        let mut parts = text.split(',').map(|part| part.parse::<u8>().ok());
        let (Some(Some(red)), Some(Some(green)), Some(Some(blue)), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        // The cube of 6 x 6 x 6 colours begins at 16.
        Some(Self::Fixed(16 + 36 * (red / 43) + 6 * (green / 43) + blue / 43))
    }
}

/// One colour per kind of row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colors {
    /// Steps that ended well.
    pub run: Color,
    /// Steps that were stopped.
    pub cancel: Color,
    /// Warnings.
    pub warning: Color,
    /// Steps that failed.
    pub error: Color,
}

impl Default for Colors {
    fn default() -> Self {
        Self { run: Color::Named(34), cancel: Color::Named(33), warning: Color::Named(33), error: Color::Named(31) }
    }
}

impl Colors {
    /// The defaults changed by `text`, e.g. `run=light-blue:cancel=yellow:error=255,0,0`; and one line for each part of it
    /// that makes no sense.
    pub fn parse(text: &str) -> (Self, Vec<String>) {
        let mut colors = Self::default();
        let mut problems = Vec::new();
        for field in text.split(':').filter(|field| !field.is_empty()) {
            // As in CSV, a field with commas may stand in quotes.
            let field = field.trim_matches('"');
            let Some((key, value)) = field.split_once('=') else {
                problems.push(format!("BUILDKIT_COLORS: {field}: expected name=colour"));
                continue;
            };
            let Some(color) = Color::parse(value.trim_matches('"')) else {
                let mut problem = format!("BUILDKIT_COLORS: {key}: unknown colour {value}; ");
                let _ = write!(problem, "use a name such as light-blue or three numbers 0-255 such as 255,127,0");
                problems.push(problem);
                continue;
            };
            match key.to_lowercase().as_str() {
                "run" => colors.run = color,
                "cancel" => colors.cancel = color,
                "warning" => colors.warning = color,
                "error" => colors.error = color,
                _ => {
                    problems
                        .push(format!("BUILDKIT_COLORS: unknown key {key}; expected run, cancel, warning or error"));
                }
            }
        }
        (colors, problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buildkit_colors() {
        let default = Colors::default();
        let table = [
            ("", default, 0),
            ("run=light-green", Colors { run: Color::Named(92), ..default }, 0),
            ("RUN=Default:error=255,0,0", Colors { run: Color::Named(39), error: Color::Fixed(196), ..default }, 0),
            (
                "cancel=magenta:warning=0,0,0",
                Colors { cancel: Color::Named(35), warning: Color::Fixed(16), ..default },
                0,
            ),
            ("run=pink:x=red:nonsense:error=1,2:error=1,2,300", default, 5),
        ];
        for (text, want, problems) in table {
            let (got, said) = Colors::parse(text);
            assert_eq!((got, said.len()), (want, problems), "{text}: {said:?}");
        }
    }
}
