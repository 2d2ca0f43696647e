//! What is raced: one [`Row`] for each line of the tables.

/// A command of vmferry and the commands of the peer that do the same work.
///
/// Commands are words between blanks; `{name}` inside a word stands for a path and may hold blanks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Which rows are run when none are named.
    pub(crate) group: Group,
    /// Which vmferry runs.
    pub(crate) binary: Binary,
    /// Arguments of vmferry; the last one that begins with `{out}` is the output.
    pub(crate) ours: &'static str,
    /// Commands of the peer, one after the other; a word `>` sends standard output to the next word,
    /// `QEMU` is `qemu-img convert -m 16 -W`, `CURL` is curl with the export's CA and token,
    /// `UPLOAD` is boto3, and `VMFERRY` is vmferry. Empty: only vmferry runs.
    pub(crate) peer: &'static [&'static str],
    /// The RAW disk that the output must equal.
    pub(crate) content: Option<&'static str>,
    /// What lies between the cluster and both sides.
    pub(crate) link: Link,
    pub(crate) goals: Goals,
}

/// The way that the exporter's bytes take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// Bytes a second that all connections share; 0 = as many as the machine can.
    pub(crate) rate: u64,
    /// Milliseconds from a request to its answer.
    pub(crate) round_trip: u64,
    /// Milliseconds of each second in which nothing moves.
    pub(crate) stall: u64,
}

/// When a row is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// Only when named: what explains another row.
    Extra,
    /// By default.
    Goal,
}

/// Which vmferry runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    /// The one that was built with the harness.
    Built,
    /// The one of `--portable-bin`, without ISA-L.
    Portable,
}

/// Largest values wanted; `None` where a row has no such goal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goals {
    /// vmferry's wall time by the peer's.
    pub(crate) wall: Option<f64>,
    /// The same for a vmferry without ISA-L.
    pub(crate) wall_portable: Option<f64>,
    /// vmferry's output length by the peer's.
    pub(crate) size: Option<f64>,
    /// vmferry's CPU time by the peer's.
    pub(crate) cpu: Option<f64>,
    /// The share of the link's rate that the disk must come at, at least.
    pub(crate) share: Option<f64>,
}

impl Row {
    /// The goal for the wall time, for the encoder that runs.
    pub(crate) fn wall_goal(&self) -> Option<f64> {
        if self.binary == Binary::Built && cfg!(feature = "isal") {
            self.goals.wall
        } else {
            self.goals.wall_portable
        }
    }

    /// Whether a command reads the input of that name.
    pub(crate) fn takes(&self, input: &str) -> bool {
        let word = format!("{{{input}}}");
        std::iter::once(&self.ours).chain(self.peer).any(|command| command.contains(&word))
    }

    const fn new(
        name: &'static str,
        ours: &'static str,
        content: Option<&'static str>,
        peer: &'static [&'static str],
        wall: f64,
    ) -> Self {
        let goals = Goals { wall: Some(wall), wall_portable: Some(wall), size: None, cpu: None, share: None };
        Self { name, group: Group::Goal, binary: Binary::Built, ours, peer, content, link: LOCAL, goals }
    }

    /// Memory is the only goal.
    const fn alone(name: &'static str, ours: &'static str, content: Option<&'static str>) -> Self {
        let goals = Goals { wall: None, wall_portable: None, size: None, cpu: None, share: None };
        Self { name, group: Group::Goal, binary: Binary::Built, ours, peer: &[], content, link: LOCAL, goals }
    }

    const fn extra(mut self) -> Self {
        self.group = Group::Extra;
        self
    }

    const fn without_isal(mut self, wall: f64) -> Self {
        self.goals.wall_portable = Some(wall);
        self
    }

    const fn sized(mut self) -> Self {
        self.goals.size = Some(SIZE_GOAL);
        self
    }

    const fn cpu(mut self, ratio: f64) -> Self {
        self.goals.cpu = Some(ratio);
        self
    }

    const fn over(mut self, link: Link) -> Self {
        self.link = link;
        self
    }

    const fn share(mut self, share: f64) -> Self {
        self.goals.share = Some(share);
        self
    }

    const fn portable(mut self, name: &'static str) -> Self {
        self.name = name;
        self.binary = Binary::Portable;
        self
    }
}

/// Compressed outputs may be 6 % larger than qemu-img's.
const SIZE_GOAL: f64 = 1.06;

const OS: Option<&str> = Some("{os}");

/// What the machine itself can move.
const LOCAL: Link = Link { rate: 0, round_trip: 0, stall: 0 };

/// A link to another place: far, and now and then nothing moves.
const FAR: Link = Link { rate: 200 << 20, round_trip: 30, stall: 10 };

const DEFLATE: Row = Row::new(
    "raw-qcow2-deflate",
    "convert -f raw --compression deflate {os} {out}.qcow2",
    OS,
    &["QEMU -c -f raw -O qcow2 {os} {out}.qcow2", "sync -d {out}.qcow2"],
    0.10,
)
.without_isal(0.30)
.sized();

const STREAM: Row = Row::new(
    "raw-vmdk",
    "convert -f raw --subformat streamOptimized {os} {out}.vmdk",
    OS,
    &["QEMU -f raw -O vmdk -o subformat=streamOptimized {os} {out}.vmdk", "sync -d {out}.vmdk"],
    0.05,
)
.without_isal(0.12)
.sized();

/// All rows, in the order of the tables.
pub(crate) const ROWS: [Row; 37] = [
    Row::new(
        "raw-raw-none",
        "convert -f raw --digest none {os} {out}.raw",
        OS,
        &["QEMU -f raw -O raw {os} {out}.raw", "sync -d {out}.raw"],
        0.9,
    ),
    Row::new(
        "raw-qcow2-none",
        "convert -f raw --digest none {os} {out}.qcow2",
        OS,
        &["QEMU -f raw -O qcow2 {os} {out}.qcow2", "sync -d {out}.qcow2"],
        0.9,
    ),
    Row::new(
        "raw-qcow2-sha256",
        "convert -f raw {os} {out}.qcow2",
        OS,
        &["QEMU -f raw -O qcow2 {os} {out}.qcow2", "sync -d {out}.qcow2", "openssl dgst -sha256 {os}"],
        0.2,
    ),
    Row::new(
        "raw-qcow2-blksum",
        "convert -f raw {os} {out}.qcow2",
        OS,
        &["QEMU -f raw -O qcow2 {os} {out}.qcow2", "sync -d {out}.qcow2", "blksum {os}"],
        0.6,
    ),
    Row::new(
        "sparse-qcow2-sha256",
        "convert -f raw {sparse} {out}.qcow2",
        Some("{sparse}"),
        &["QEMU -f raw -O qcow2 {sparse} {out}.qcow2", "sync -d {out}.qcow2"],
        1.5,
    ),
    DEFLATE,
    DEFLATE.portable("raw-qcow2-deflate-portable"),
    Row::new(
        "raw-qcow2-deflate-none",
        "convert -f raw --digest none --compression deflate {os} {out}.qcow2",
        OS,
        DEFLATE.peer,
        0.10,
    )
    .without_isal(0.30)
    .sized()
    .extra(),
    Row::new(
        "raw-qcow2-zstd",
        "convert -f raw --compression zstd {os} {out}.qcow2",
        OS,
        &["QEMU -c -f raw -O qcow2 -o compression_type=zstd {os} {out}.qcow2", "sync -d {out}.qcow2"],
        0.40,
    ),
    Row::new(
        "raw-qcow2-zstd-none",
        "convert -f raw --digest none --compression zstd {os} {out}.qcow2",
        OS,
        &["QEMU -c -f raw -O qcow2 -o compression_type=zstd {os} {out}.qcow2", "sync -d {out}.qcow2"],
        0.40,
    )
    .extra(),
    STREAM,
    STREAM.portable("raw-vmdk-portable"),
    Row::new(
        "raw-vmdk-none",
        "convert -f raw --digest none --subformat streamOptimized {os} {out}.vmdk",
        OS,
        STREAM.peer,
        0.05,
    )
    .without_isal(0.12)
    .sized()
    .extra(),
    Row::new(
        "deflate-raw",
        "convert -f qcow2 {deflate} {out}.raw",
        OS,
        &["QEMU -f qcow2 -O raw {deflate} {out}.raw", "sync -d {out}.raw"],
        0.35,
    ),
    Row::new(
        "deflate-raw-none",
        "convert -f qcow2 --digest none {deflate} {out}.raw",
        OS,
        &["QEMU -f qcow2 -O raw {deflate} {out}.raw", "sync -d {out}.raw"],
        0.35,
    )
    .extra(),
    Row::new(
        "zstd-raw",
        "convert -f qcow2 {zstd} {out}.raw",
        OS,
        &["QEMU -f qcow2 -O raw {zstd} {out}.raw", "sync -d {out}.raw"],
        0.45,
    ),
    Row::new(
        "zstd-raw-none",
        "convert -f qcow2 --digest none {zstd} {out}.raw",
        OS,
        &["QEMU -f qcow2 -O raw {zstd} {out}.raw", "sync -d {out}.raw"],
        0.45,
    )
    .extra(),
    Row::new(
        "vmdk-raw",
        "convert -f vmdk {vmdk} {out}.raw",
        OS,
        &["QEMU -f vmdk -O raw {vmdk} {out}.raw", "sync -d {out}.raw"],
        0.20,
    ),
    Row::new(
        "vmdk-raw-none",
        "convert -f vmdk --digest none {vmdk} {out}.raw",
        OS,
        &["QEMU -f vmdk -O raw {vmdk} {out}.raw", "sync -d {out}.raw"],
        0.20,
    )
    .extra(),
    Row::new(
        "gz-qcow2",
        "convert {gz} {out}.qcow2",
        OS,
        &[
            "igzip -dc {gz} > {out}.spool",
            "QEMU -f raw -O qcow2 {out}.spool {out}.qcow2",
            "sync -d {out}.qcow2",
        ],
        0.35,
    ),
    Row::new(
        "gz-qcow2-pigz",
        "convert {gz} {out}.qcow2",
        OS,
        &[
            "pigz -dc {gz} > {out}.spool",
            "QEMU -f raw -O qcow2 {out}.spool {out}.qcow2",
            "sync -d {out}.qcow2",
        ],
        0.35,
    ),
    Row::new("digest", "digest -f raw {os}", None, &["openssl dgst -sha256 {os}"], 0.12),
    Row::new("digest-blksum", "digest -f raw {os}", None, &["blksum {os}"], 0.5),
    Row::new(
        "ova",
        "pack --vm {vm} --disk {os} {out}.ova",
        None,
        &[
            "QEMU -f raw -O vmdk -o subformat=streamOptimized {os} {out}.vmdk",
            "sha256sum {out}.vmdk",
            "tar -cPf {out}.ova {out}.vmdk",
            "sync -d {out}.ova",
        ],
        0.06,
    )
    .cpu(0.10),
    Row::new(
        "ova-4",
        "pack --vm {vm} --disk {os} --disk {sparse} --disk {tail} --disk {zeros} {out}.ova",
        None,
        &[
            "QEMU -f raw -O vmdk -o subformat=streamOptimized {os} {out}-1.vmdk",
            "QEMU -f raw -O vmdk -o subformat=streamOptimized {sparse} {out}-2.vmdk",
            "QEMU -f raw -O vmdk -o subformat=streamOptimized {tail} {out}-3.vmdk",
            "QEMU -f raw -O vmdk -o subformat=streamOptimized {zeros} {out}-4.vmdk",
            "sha256sum {out}-1.vmdk {out}-2.vmdk {out}-3.vmdk {out}-4.vmdk",
            "tar -cPf {out}.ova {out}-1.vmdk {out}-2.vmdk {out}-3.vmdk {out}-4.vmdk",
            "sync -d {out}.ova",
        ],
        0.06,
    )
    .cpu(0.10),
    Row::new(
        "export-raw-qcow2",
        "export --kubeconfig {kubeconfig} -n demo --vmexport os --transfer raw --output {out}.qcow2",
        OS,
        &[
            "CURL -o {out}.spool {raw-url}",
            "QEMU -f raw -O qcow2 {out}.spool {out}.qcow2",
            "sync -d {out}.qcow2",
            "openssl dgst -sha256 {out}.qcow2",
        ],
        0.7,
    ),
    Row::new(
        "export-raw-qcow2-deflate",
        "export --kubeconfig {kubeconfig} -n demo --vmexport os --transfer raw --compression deflate --output {out}.qcow2",
        OS,
        &[
            "CURL -o {out}.spool {raw-url}",
            "QEMU -c -f raw -O qcow2 {out}.spool {out}.qcow2",
            "sync -d {out}.qcow2",
            "openssl dgst -sha256 {out}.qcow2",
        ],
        0.35,
    )
    .cpu(0.25),
    Row::new(
        "export-gz-qcow2-deflate",
        "export --kubeconfig {kubeconfig} -n demo --vmexport os --transfer gzip --compression deflate --output {out}.qcow2",
        OS,
        &[
            "CURL -o {out}.gz {gzip-url}",
            "gunzip -c {out}.gz > {out}.spool",
            "QEMU -c -f raw -O qcow2 {out}.spool {out}.qcow2",
            "sync -d {out}.qcow2",
            "openssl dgst -sha256 {out}.qcow2",
        ],
        0.12,
    ),
    // What is asked of --transfer auto is that it is not much slower than the better choice.
    Row::new(
        "export-auto",
        "export --kubeconfig {kubeconfig} -n demo --vmexport os --compression deflate --output {out}.qcow2",
        OS,
        &["VMFERRY export --kubeconfig {kubeconfig} -n demo --vmexport os --transfer raw --compression deflate --output {out}.qcow2"],
        1.25,
    ),
    Row::new(
        "export-auto-far",
        "export --kubeconfig {kubeconfig} -n demo --vmexport os --compression deflate --output {out}.qcow2",
        OS,
        &["VMFERRY export --kubeconfig {kubeconfig} -n demo --vmexport os --transfer gzip --compression deflate --output {out}.qcow2"],
        1.5,
    )
    .over(FAR),
    Row::alone(
        "export-far",
        "export --kubeconfig {kubeconfig} -n demo --vmexport os --transfer raw --output {out}.qcow2",
        OS,
    )
    .over(FAR)
    .share(0.9),
    Row::new(
        "s3-qcow2",
        "convert -f raw {os} {object}.qcow2 --store-endpoint {store} --store-allow-http --store-anonymous",
        OS,
        &["VMFERRY convert -f raw {os} {out}.qcow2", "UPLOAD {store} {out}.qcow2"],
        0.6,
    ),
    Row::new(
        "s3-qcow2-deflate",
        "convert -f raw --compression deflate {os} {object}.qcow2 --store-endpoint {store} --store-allow-http --store-anonymous",
        OS,
        &["VMFERRY convert -f raw --compression deflate {os} {out}.qcow2", "UPLOAD {store} {out}.qcow2"],
        0.6,
    ),
    Row::alone("huge-qcow2", "convert -f raw {huge} {out}.qcow2", Some("{huge}")),
    Row::alone("huge-qcow2-64", "convert -f raw --workers 64 {huge} {out}.qcow2", Some("{huge}")),
    Row::alone(
        "huge-qcow2-deflate-64",
        "convert -f raw --compression deflate --workers 64 {huge} {out}.qcow2",
        Some("{huge}"),
    ),
    Row::alone("huge-vmdk", "convert -f raw {huge} {out}.vmdk", Some("{huge}")),
];
