//! Whether a transfer that is waited for gets on. Pure but for the durations it is told.

use std::time::Duration;

/// Less than this in a whole silence's time is not worth waiting for, and no progress after a failure either.
pub(super) const LEAST: u64 = 16 << 10;

/// How much has come since when. Only time spent waiting counts: a reader that is slow itself is nobody's fault.
#[derive(Debug, Default)]
pub(super) struct Pace {
    waited: Duration,
    moved: u64,
}

impl Pace {
    /// How long the next piece may take.
    pub(super) fn patience(&self, silence: Duration) -> Duration {
        silence.saturating_sub(self.waited)
    }

    /// A piece came after waiting for so long.
    pub(super) fn note(&mut self, waited: Duration, bytes: u64) {
        self.waited += waited;
        self.moved += bytes;
        if self.moved >= LEAST {
            *self = Self::default();
        }
    }

    /// What came in the time that is counted.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_uses_patience_up_and_a_slow_line_does_not() {
        let silence = Duration::from_secs(60);
        let mut pace = Pace::default();
        for _ in 0..50 {
            pace.note(Duration::from_secs(1), 1);
        }
        assert_eq!((pace.patience(silence), pace.moved()), (Duration::from_secs(10), 50));
        pace.note(Duration::from_secs(9), LEAST);
        assert_eq!((pace.patience(silence), pace.moved()), (silence, 0));
    }
}
