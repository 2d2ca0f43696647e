//! The serial console of a VM: by a terminal, by pipes, and what it says when there is none.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, tcgetattr},
};
use serde_json::json;
use vmferry_sim::{Config, Fault, FaultKind, Rule, Vm};

use super::{Cluster, text};
use crate::support::{read, scratch, wait_for};

fn add(cluster: &Cluster) {
    cluster.sim.add_vm(Vm::new("demo", "web").running(true));
    cluster.sim.add_vm(Vm::new("demo", "off"));
    let mute = json!({"template": {"spec": {"domain": {"devices": {"autoattachSerialConsole": false}}}}});
    cluster.sim.add_vm(Vm::new("demo", "mute").running(true).patch(&mute));
}

/// A terminal, and a console in it.
struct Session {
    child: Child,
    keys: File,
    shown: mpsc::Receiver<Vec<u8>>,
    all: Vec<u8>,
    terminal: OwnedFd,
}

impl Session {
    fn open(mut command: Command) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        let open = || -> OwnedFd {
            let path = std::path::Path::new(name.to_str().unwrap());
            File::options().read(true).write(true).open(path).unwrap().into()
        };
        let terminal = open();
        command.stdin(Stdio::from(open())).stdout(Stdio::from(open())).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let keys = File::from(ours);
        let mut screen = keys.try_clone().unwrap();
        let (sender, shown) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(len) = screen.read(&mut buffer) {
                if len == 0 || sender.send(buffer[..len].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { child, keys, shown, all: Vec::new(), terminal }
    }

    fn kind(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this is on the screen.
    #[track_caller]
    fn until(&mut self, part: &str) {
        let start = Instant::now();
        while !String::from_utf8_lossy(&self.all).contains(part) {
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "{part}: {:?}",
                String::from_utf8_lossy(&self.all)
            );
            if let Ok(piece) = self.shown.recv_timeout(Duration::from_millis(100)) {
                self.all.extend(piece);
            }
        }
    }

    /// Whether keys go through as they are.
    fn is_raw(&self) -> bool {
        !tcgetattr(&self.terminal)
            .unwrap()
            .local_modes
            .intersects(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end; gives its code and what it said, and demands a terminal as it was.
    #[track_caller]
    fn end(mut self) -> (Option<i32>, String) {
        wait_for("the end", || self.child.try_wait().unwrap().is_some());
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let modes = tcgetattr(&self.terminal).unwrap().local_modes;
        assert!(
            modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG),
            "{modes:?}: {said}"
        );
        (self.child.wait().unwrap().code(), said)
    }
}

#[test]
fn a_terminal_is_handed_to_the_guest_and_given_back() {
    let cluster = Cluster::start();
    add(&cluster);
    let place = scratch();
    let copy = place.path().join("boot.log");
    let line = format!("vm console demo/web --output {}", copy.display());
    let mut session = Session::open(cluster.command(&line));
    session.until("console of demo/web");
    assert!(session.is_raw());
    // ^C is the guest's.
    session.kind("root\r\u{3}");
    session.until("root\r\n\u{3}");
    session.kind("bye\u{1d}not for the guest");
    let (code, said) = session.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("^] leaves it") && said.contains("left the console of VM demo/web"), "{said}");
    let copy = String::from_utf8(read(&copy)).unwrap();
    assert!(
        copy.starts_with("console of demo/web\r\nroot\r\n\u{3}") && !copy.contains("not for"),
        "{copy:?}"
    );
    cluster.refused(&format!("{line} --pipe"), 5, &["boot.log exists", "--force"]);
}

#[test]
fn a_terminal_is_given_back_however_it_ends() {
    // By the guest, by signals, by the clock, by a connection that breaks.
    let cluster = Cluster::start();
    add(&cluster);
    let open = |line: &str| {
        let mut session = Session::open(cluster.command(line));
        session.until("console of demo/web");
        assert!(session.is_raw());
        session
    };
    let mut session = open("vm console demo/web");
    session.kind("\u{4}");
    let (code, said) = session.end();
    assert!(code == Some(0) && said.contains("the cluster closed the console"), "{code:?}: {said}");
    for (signal, expected) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 6), (Signal::QUIT, 6)] {
        let session = open("vm console demo/web");
        session.signal(signal);
        let (code, said) = session.end();
        assert!(code == Some(expected) && said.contains("stopped by SIG"), "{signal:?}: {code:?}: {said}");
    }
    let (code, said) = open("vm console demo/web --timeout 300ms").end();
    assert!(code == Some(0) && said.contains("its time is over"), "{code:?}: {said}");
    let session = open("vm console demo/web");
    drop(cluster);
    let (code, said) = session.end();
    assert!(matches!(code, Some(0 | 6)) && said.contains("console of VM demo/web"), "{code:?}: {said}");
}

#[test]
fn pipes_type_and_read_along() {
    let cluster = Cluster::start();
    add(&cluster);
    cluster.refused("vm console demo/web", 2, &["standard input is no terminal", "--pipe"]);
    let typed = |line: &str, keys: &str| {
        let mut command = cluster.command(line);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(keys.as_bytes()).unwrap();
        crate::support::Finished::from(child.wait_with_output().unwrap())
    };
    // No key leaves it; the end of what is typed does not end it, the guest does.
    let done = typed("vm console demo/web --pipe", "uname\n\u{1d}\u{4}").expect(0);
    assert!(text(&done).starts_with("console of demo/web\r\n"), "{:?}", text(&done));
    let start = Instant::now();
    let done = typed("vm console demo/web --pipe --timeout 2s", "uname -a\n\u{1d}").expect(0);
    assert_eq!(text(&done), "console of demo/web\r\nuname -a\r\n\u{1d}");
    assert!(
        start.elapsed() >= Duration::from_secs(2) && done.stderr.contains("its time is over"),
        "{}",
        done.stderr
    );
}

#[test]
fn who_has_no_console_is_told_why() {
    let cluster = Cluster::start();
    add(&cluster);
    let line = |vm: &str| format!("vm console demo/{vm} --pipe");
    cluster.refused(
        &line("off"),
        7,
        &["VM demo/off has no console to be opened: it is not running", "vm start"],
    );
    cluster.refused(&line("mute"), 7, &["it has no serial console", "autoattachSerialConsole"]);
    cluster.refused(&line("missing"), 7, &["VM demo/missing does not exist"]);
    cluster.sim.fault(Fault::new(FaultKind::Garbage).api_path("/console"));
    cluster.refused(&line("web"), 6, &["did not open a websocket", "proxy"]);
    cluster.sim.fault(Fault::new(FaultKind::Status { code: 503 }).api_path("/console"));
    cluster.refused(&line("web"), 6, &["(503)", "readyz"]);
    cluster.sim.fault(Fault::new(FaultKind::Delay { pause: Duration::from_secs(60) }).api_path("/console"));
    cluster.refused(&format!("{} --request-timeout 1s", line("web")), 6, &["did not answer within 1 s"]);
    cluster.allow(vec![Rule::new(&["get"], &["kubevirt.io/*"])]);
    cluster.refused(
        &line("web"),
        7,
        &["--verb=get --resource=virtualmachineinstances.subresources.kubevirt.io/console -n demo", "(403)"],
    );
    let absent = vec!["subresources.kubevirt.io".to_owned()];
    let cluster = Cluster::with(Config { absent_groups: absent, ..Config::default() });
    add(&cluster);
    cluster.refused(&line("web"), 7, &["does not serve virtualmachineinstances/console", "virt-api"]);
}
