//! Progress on standard error, while a command runs: a bar for people, JSON lines for machines.

use std::{
    cmp::Ordering,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use vmferry::pipeline::progress::{Phase, Progress, Snapshot};

use super::{
    args::ProgressMode,
    output::{Console, Output},
    units::{Bytes, Elapsed, percent},
};

/// Time between two looks at the counters for a bar: smooth for the eye, free for the CPU.
const BAR_INTERVAL: Duration = Duration::from_millis(150);

/// Time between two JSON lines.
const JSON_INTERVAL: Duration = Duration::from_secs(1);

/// Time over which the rate is smoothed.
const SMOOTHING: Duration = Duration::from_secs(5);

/// Characters between the brackets of the bar: all that matters fits into 80 columns.
const BAR_WIDTH: u8 = 14;

/// What turns while the end is not known.
const SPINNER: [char; 4] = ['-', '\\', '|', '/'];

/// One text, so that one look is one redraw; cut where the terminal ends.
const TEMPLATE: &str = "{wide_msg}";

/// The task that shows progress. [`finish`](Self::finish) ends it; so does dropping it.
#[derive(Debug)]
pub(crate) struct Watch {
    task: Option<(JoinHandle<()>, CancellationToken)>,
}

impl Watch {
    /// Shows `progress` as the user wants it.
    pub(crate) fn start(output: &Output, progress: Progress) -> Self {
        let console = output.console().clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = match output.progress_mode() {
            ProgressMode::Auto | ProgressMode::None => return Self { task: None },
            ProgressMode::Bar => tokio::spawn(draw_bar(console, progress, stopped)),
            ProgressMode::Json => tokio::spawn(print_lines(console, progress, stopped)),
        };
        Self { task: Some((task, stop)) }
    }

    /// Shows the final state (lines) or clears it away (bar), and waits until that is done.
    pub(crate) async fn finish(mut self) {
        if let Some((task, stop)) = self.task.take() {
            stop.cancel();
            if let Err(error) = task.await {
                tracing::debug!(%error, "progress display ended early");
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some((_, stop)) = self.task.take() {
            stop.cancel();
        }
    }
}

async fn draw_bar(console: Console, progress: Progress, stop: CancellationToken) {
    let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style);
    console.set_bar(Some(bar.clone()));
    let mut meter = Meter::default();
    let mut spinner = SPINNER.into_iter().cycle();
    poll(BAR_INTERVAL, &stop, || {
        let snapshot = progress.snapshot();
        let reading = meter.read(Instant::now(), &snapshot);
        bar.set_message(message(&snapshot, &reading, spinner.next().unwrap_or_default()));
    })
    .await;
    console.set_bar(None);
    bar.finish_and_clear();
}

async fn print_lines(console: Console, progress: Progress, stop: CancellationToken) {
    let mut meter = Meter::default();
    let mut print = || {
        let snapshot = progress.snapshot();
        let reading = meter.read(Instant::now(), &snapshot);
        console.line(&line(&snapshot, &reading));
    };
    poll(JSON_INTERVAL, &stop, &mut print).await;
    print();
}

/// Calls `look` at once and every `period`, until `stop`.
async fn poll(period: Duration, stop: &CancellationToken, mut look: impl FnMut()) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        look();
    }
}

const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Preparing => "preparing",
        Phase::Running => "running",
        Phase::Syncing => "syncing",
        Phase::Verifying => "verifying",
        Phase::Done => "done",
    }
}

/// `running [=====>        ]  43%  4.3 GiB / 10 GiB  1.2 GiB/s  ETA 4.8s  68% zero`: what matters
/// least stands last, where a narrow terminal cuts.
fn message(snapshot: &Snapshot, reading: &Reading, spinner: char) -> String {
    let phase = phase_name(snapshot.phase);
    let done = Bytes(snapshot.done);
    let mut text = match snapshot.total {
        Some(total) => {
            let share = percent(snapshot.done.min(total), total);
            format!("{phase} [{}] {share:>3}%  {done} / {}", bar(share), Bytes(total))
        }
        None => format!("{phase} {spinner}  {done}"),
    };
    if reading.rate > 0 {
        text.push_str(&format!("  {}/s", Bytes(reading.rate)));
    }
    if let Some(eta) = reading.eta {
        text.push_str(&format!("  ETA {}", Elapsed(eta)));
    }
    if snapshot.zero > 0 {
        text.push_str(&format!("  {}% zero", percent(snapshot.zero, snapshot.done)));
    }
    text
}

/// The inside of the bar at `share` percent.
fn bar(share: u128) -> String {
    let filled = share * u128::from(BAR_WIDTH) / 100;
    let at = |column: u8| match u128::from(column).cmp(&filled) {
        Ordering::Less => '=',
        Ordering::Equal => '>',
        Ordering::Greater => ' ',
    };
    (0..BAR_WIDTH).map(at).collect()
}

fn line(snapshot: &Snapshot, reading: &Reading) -> String {
    #[derive(Serialize)]
    struct Line {
        phase: &'static str,
        total: Option<u64>,
        done: u64,
        zero: u64,
        read: u64,
        written: u64,
        rate: u64,
        eta_seconds: Option<u64>,
    }

    let line = Line {
        phase: phase_name(snapshot.phase),
        total: snapshot.total,
        done: snapshot.done,
        zero: snapshot.zero,
        read: snapshot.read,
        written: snapshot.written,
        rate: reading.rate,
        eta_seconds: reading.eta.map(|eta| eta.as_secs()),
    };
    serde_json::to_string(&line).unwrap_or_default()
}

/// What the counters mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reading {
    /// Bytes of guest disk a second.
    rate: u64,
    /// Time to the end of this phase.
    eta: Option<Duration>,
}

/// Smooths the rate. It starts anew with each phase, so that neither what an earlier run did nor
/// the speed of another phase counts.
#[derive(Debug, Default)]
struct Meter {
    last: Option<Mark>,
    rate: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    phase: Phase,
    done: u64,
}

impl Meter {
    fn read(&mut self, now: Instant, snapshot: &Snapshot) -> Reading {
        let mark = Mark { at: now, phase: snapshot.phase, done: snapshot.done };
        match self.last.replace(mark) {
            Some(last) if last.phase == mark.phase && last.done <= mark.done => {
                let elapsed = now.saturating_duration_since(last.at).as_secs_f64();
                if elapsed <= 0.0 {
                    self.last = Some(last);
                } else {
                    let current = (mark.done - last.done) as f64 / elapsed;
                    let weight = 1.0 - (-elapsed / SMOOTHING.as_secs_f64()).exp();
                    self.rate = Some(self.rate.map_or(current, |rate| rate + weight * (current - rate)));
                }
            }
            _ => self.rate = None,
        }
        let moving = matches!(snapshot.phase, Phase::Running | Phase::Verifying);
        let rate = self.rate.filter(|rate| moving && *rate >= 1.0);
        let left = snapshot.total.map(|total| total.saturating_sub(snapshot.done));
        Reading {
            rate: rate.map_or(0, whole),
            eta: rate.zip(left).and_then(|(rate, left)| Duration::try_from_secs_f64(left as f64 / rate).ok()),
        }
    }
}

/// The whole part of a number that is not negative, without a lossy cast.
fn whole(number: f64) -> u64 {
    Duration::try_from_secs_f64(number).map_or(u64::MAX, |seconds| seconds.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn running(done: u64) -> Snapshot {
        Snapshot { phase: Phase::Running, total: Some(100 * MIB), done, ..Snapshot::default() }
    }

    #[test]
    fn a_resumed_run_does_not_count_what_was_done_before() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        assert_eq!(meter.read(start, &Snapshot::default()), Reading::default());
        assert_eq!(meter.read(start, &running(50 * MIB)), Reading::default());
        let reading = meter.read(start + Duration::from_secs(1), &running(60 * MIB));
        assert_eq!(reading, Reading { rate: 10 * MIB, eta: Some(Duration::from_secs(4)) });
    }

    #[test]
    fn the_rate_is_smoothed_and_follows() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        let mut rates = Vec::new();
        for second in 0..40 {
            let done = if second < 2 { second * 10 } else { 10 + (second - 1) };
            rates.push(meter.read(start + Duration::from_secs(second), &running(done * MIB)).rate);
        }
        assert_eq!(rates[1], 10 * MIB);
        assert!(rates[2] > 7 * MIB && rates[2] < 10 * MIB, "{}", rates[2]);
        assert!(rates[39] < MIB + MIB / 10, "{}", rates[39]);
    }

    #[test]
    fn a_new_phase_starts_anew() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        meter.read(start, &running(0));
        meter.read(start + Duration::from_secs(1), &running(100 * MIB));
        let syncing = Snapshot { phase: Phase::Syncing, ..running(100 * MIB) };
        assert_eq!(meter.read(start + Duration::from_secs(2), &syncing), Reading::default());
        let verifying = Snapshot { phase: Phase::Verifying, ..running(0) };
        assert_eq!(meter.read(start + Duration::from_secs(3), &verifying), Reading::default());
        let verifying = Snapshot { phase: Phase::Verifying, ..running(50 * MIB) };
        let reading = meter.read(start + Duration::from_secs(4), &verifying);
        assert_eq!(reading, Reading { rate: 50 * MIB, eta: Some(Duration::from_secs(1)) });
    }

    #[test]
    fn a_stalled_run_has_no_eta() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        meter.read(start, &running(0));
        let reading = meter.read(start + Duration::from_secs(60), &running(0));
        assert_eq!(reading, Reading::default());
        assert_eq!(meter.read(start + Duration::from_secs(60), &running(0)), Reading::default());
    }

    #[test]
    fn lines_have_a_stable_shape() {
        let snapshot = Snapshot { zero: 2, read: 3, written: 4, ..running(5) };
        let reading = Reading { rate: 6, eta: Some(Duration::from_millis(7900)) };
        assert_eq!(
            line(&snapshot, &reading),
            r#"{"phase":"running","total":104857600,"done":5,"zero":2,"read":3,"written":4,"rate":6,"eta_seconds":7}"#
        );
        assert_eq!(
            line(&Snapshot::default(), &Reading::default()),
            r#"{"phase":"preparing","total":null,"done":0,"zero":0,"read":0,"written":0,"rate":0,"eta_seconds":null}"#
        );
    }

    #[test]
    fn messages_leave_out_what_is_not_known() {
        let snapshot = Snapshot { zero: 15 * MIB, ..running(20 * MIB) };
        let reading = Reading { rate: 10 * MIB, eta: Some(Duration::from_secs(8)) };
        assert_eq!(
            message(&snapshot, &reading, '-'),
            "running [==>           ]  20%  20 MiB / 100 MiB  10 MiB/s  ETA 8.0s  75% zero"
        );
        let unknown = Snapshot { total: None, ..running(MIB) };
        assert_eq!(message(&unknown, &Reading { rate: MIB, eta: None }, '|'), "running |  1 MiB  1 MiB/s");
        assert_eq!(message(&Snapshot::default(), &Reading::default(), '-'), "preparing -  0 B");
        let empty = Snapshot { total: Some(0), ..running(0) };
        assert_eq!(message(&empty, &Reading::default(), '-'), "running [>             ]   0%  0 B / 0 B");
    }

    #[test]
    fn what_matters_fits_into_80_columns() {
        let total = 1_099_400_000_000;
        let snapshot =
            Snapshot { phase: Phase::Verifying, total: Some(total), done: total - 1, ..Snapshot::default() };
        let reading = Reading { rate: 1023 * MIB, eta: Some(Duration::from_secs(3599)) };
        let text = message(&snapshot, &reading, '-');
        assert!(text.ends_with("ETA 59m59s") && text.len() <= 81, "{} {text}", text.len());
    }

    #[test]
    fn the_bar_fills() {
        assert_eq!(bar(0), ">             ");
        assert_eq!(bar(50), "=======>      ");
        assert_eq!(bar(100), "==============");
    }

    #[test]
    fn the_template_parses() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }

    #[tokio::test]
    async fn polling_looks_at_once_and_ends_when_told() {
        let stop = CancellationToken::new();
        let mut looks = 0;
        poll(Duration::from_secs(3600), &stop, || {
            looks += 1;
            stop.cancel();
        })
        .await;
        assert_eq!(looks, 1);
    }
}
