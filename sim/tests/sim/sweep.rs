//! Sweeps over seeds, moments and points: that each of them met what it is about.

use crate::lab::Lab;

/// Counts how often a sweep met something. At the end of its scope it must have been often enough: a sweep whose moments
/// no longer fit would pass without testing anything. `--nocapture` shows the counts.
#[must_use]
pub struct Seen {
    least: u64,
    what: &'static str,
    count: u64,
}

impl Seen {
    /// To be met at least so often.
    pub fn at_least(least: u64, what: &'static str) -> Self {
        Self { least, what, count: 0 }
    }

    /// Met once, if so.
    pub fn when(&mut self, met: bool) {
        self.count += u64::from(met);
    }

    /// Met so often.
    pub fn times(&mut self, count: usize) {
        self.count += count as u64;
    }
}

impl Drop for Seen {
    #[expect(clippy::print_stderr, reason = "whoever changes a sweep wants to see what it meets")]
    fn drop(&mut self) {
        let Self { least, what, count } = self;
        eprintln!("{count} {what}");
        assert!(
            std::thread::panicking() || count >= least,
            "only {count} {what}; at least {least} are wanted"
        );
    }
}

/// Which points of a run a process dies at, one in each further run.
pub struct Deaths {
    /// A run has more points than this, or the counting is broken.
    pub more_than: u64,
    /// The first one to die at.
    pub first: u64,
    /// From one to the next.
    pub stride: usize,
}

impl Deaths {
    /// Each of them.
    pub fn at_every_point(more_than: u64) -> Self {
        Self { more_than, first: 0, stride: 1 }
    }

    /// Every other one.
    pub fn at_every_other_point(more_than: u64) -> Self {
        Self { stride: 2, ..Self::at_every_point(more_than) }
    }

    /// Repeats a run with a death at each of these points. A run arms its laboratory with [`Lab::die_at`], drives it to
    /// rest, checks it, and hands it over.
    pub async fn of(self, run: impl AsyncFn(u64) -> Lab) {
        let lab = run(u64::MAX).await;
        let points = lab.points_passed();
        assert_eq!(lab.deaths, 0);
        assert!(points > self.more_than, "only {points} points; the counting is broken");
        for k in (self.first..points).step_by(self.stride) {
            let deaths = run(k).await.deaths;
            assert_eq!(deaths, 1, "no death at point {k} of {points}; the injection did not hit");
        }
    }
}
