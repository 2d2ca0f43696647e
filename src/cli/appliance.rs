//! How appliances are described and sealed: what the commands that write them share.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use clap::Args;
use vmferry::{
    Error, Signer,
    appliance::{ControllerModel, DescriptorOptions, MacPolicy, TargetNic, TargetProfile},
    formats::ova::ManifestHash,
};

use super::args::FormatArg;

/// What is written beside the images.
#[derive(Args, Debug)]
#[command(next_help_heading = "Appliance options")]
pub(super) struct SealArgs {
    /// Format of the images; an OVA takes vmdk alone [default: vmdk]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub(super) disk_format: Option<FormatArg>,

    /// Hash function of the manifest [default: sha256; vSphere before 6.5 and some tools know sha1 alone]
    #[arg(long, value_name = "NAME")]
    manifest_algorithm: Option<ManifestHash>,

    /// PEM file of the private key (RSA, or ECDSA on P-256) that signs the manifest
    #[arg(long, value_name = "FILE", requires = "sign_cert")]
    sign_key: Option<PathBuf>,

    /// PEM file of its certificate
    #[arg(long, value_name = "FILE", requires = "sign_key")]
    sign_cert: Option<PathBuf>,

    /// Time of the files in an OVA, in seconds since 1970 [default: SOURCE_DATE_EPOCH, when an exported VM
    /// or snapshot was made, or 0]
    #[arg(long, value_name = "SECONDS")]
    mtime: Option<u64>,
}

/// How the VM is described.
#[derive(Args, Debug)]
#[command(next_help_heading = "Appliance options")]
pub(super) struct DescriptorArgs {
    /// Who is to import the appliance: vmware (default), virtualbox, proxmox or generic
    #[arg(long, value_name = "NAME")]
    target_profile: Option<TargetProfile>,

    /// Model of all network cards: e1000, e1000e, vmxnet3 or pcnet32 [default: by the target]
    #[arg(long, value_name = "MODEL")]
    nic_model: Option<TargetNic>,

    /// Controller of all disks: lsilogic, lsilogicsas, pvscsi, sata, nvme or ide [default: by the target]
    #[arg(long, value_name = "MODEL")]
    disk_bus: Option<ControllerModel>,

    /// The network of the target for one of the VM; may be given several times
    #[arg(long, value_name = "FROM=TO", value_parser = parse_pair)]
    network_map: Vec<(String, String)>,

    /// What becomes of MAC addresses: keep (default), or new ones when the appliance is imported
    #[arg(long, value_name = "keep|new")]
    mac: Option<MacPolicy>,

    /// The guest's operating system: as KubeVirt names it (rhel.9), or VMware's name
    #[arg(long, value_name = "NAME")]
    os_type: Option<String>,
}

impl SealArgs {
    /// Hash function of the manifest.
    pub(super) fn manifest_hash(&self) -> ManifestHash {
        self.manifest_algorithm.unwrap_or_default()
    }

    /// Who signs.
    pub(super) fn signer(&self) -> Result<Option<Signer>, Error> {
        match (&self.sign_key, &self.sign_cert) {
            (Some(key), Some(certificate)) => Signer::open(key, certificate).map(Some),
            _ => Ok(None),
        }
    }

    /// The files that it is signed with.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.sign_key, &self.sign_cert].into_iter().flatten()
    }

    /// The time of the files, if it is said: `epoch` is what SOURCE_DATE_EPOCH says.
    pub(super) fn mtime(&self, epoch: Option<String>) -> Result<Option<u64>, Error> {
        mtime(self.mtime, epoch)
    }

    /// The first option that was given, for where none has a meaning.
    #[cfg(feature = "kubevirt")]
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.disk_format.is_some(), "--disk-format"),
            (self.manifest_algorithm.is_some(), "--manifest-algorithm"),
            (self.sign_key.is_some(), "--sign-key"),
            (self.mtime.is_some(), "--mtime"),
        ];
        given.into_iter().find(|(given, _)| *given).map(|(_, name)| name)
    }
}

impl DescriptorArgs {
    /// Refuses what contradicts itself.
    pub(super) fn check(&self) -> Result<(), Error> {
        let mut keys = BTreeSet::new();
        match self.network_map.iter().find(|(from, _)| !keys.insert(from)) {
            Some((from, _)) => Err(Error::usage(format!("--network-map has {from:?} twice"))
                .with_hint("give each network of the VM one of the target")),
            None => Ok(()),
        }
    }

    /// The same for the library.
    pub(super) fn options(&self) -> DescriptorOptions {
        DescriptorOptions {
            target_profile: self.target_profile.unwrap_or_default(),
            nic_model: self.nic_model,
            disk_bus: self.disk_bus,
            network_map: self.network_map.iter().cloned().collect::<BTreeMap<_, _>>(),
            mac: self.mac,
            os_type: self.os_type.clone(),
            ..DescriptorOptions::default()
        }
    }

    /// As [`SealArgs::given`].
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.target_profile.is_some(), "--target-profile"),
            (self.nic_model.is_some(), "--nic-model"),
            (self.disk_bus.is_some(), "--disk-bus"),
            (!self.network_map.is_empty(), "--network-map"),
            (self.mac.is_some(), "--mac"),
            (self.os_type.is_some(), "--os-type"),
        ];
        given.into_iter().find(|(given, _)| *given).map(|(_, name)| name)
    }
}

fn mtime(given: Option<u64>, epoch: Option<String>) -> Result<Option<u64>, Error> {
    let epoch = epoch.map(|epoch| {
        epoch.trim().parse().map_err(|_| {
            Error::usage(format!("SOURCE_DATE_EPOCH is {epoch:?}, not a number of seconds since 1970"))
        })
    });
    match given {
        Some(given) => Ok(Some(given)),
        None => epoch.transpose(),
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok((from.to_owned(), to.to_owned())),
        _ => Err("FROM=TO is needed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use vmferry::ErrorKind;

    use super::*;

    #[test]
    fn times_come_from_the_option_then_from_the_environment() {
        let epoch = |text: &str| Some(text.to_owned());
        assert_eq!(mtime(Some(5), epoch("7")).unwrap(), Some(5));
        assert_eq!(mtime(None, epoch("7")).unwrap(), Some(7));
        assert_eq!(mtime(None, None).unwrap(), None);
        assert_eq!(mtime(None, epoch("yesterday")).unwrap_err().kind(), ErrorKind::Usage);
    }

    #[test]
    fn a_network_is_mapped_once() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            described: DescriptorArgs,
        }
        let check = |pairs: &[&str]| {
            let args = pairs.iter().flat_map(|pair| ["--network-map", *pair]);
            Line::try_parse_from(std::iter::once("x").chain(args)).unwrap().described.check()
        };
        check(&["a=x", "b=x"]).unwrap();
        let error = check(&["a=x", "b=x", "a=y"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("\"a\" twice"), "{error}");
    }

    #[test]
    fn networks_are_mapped_by_pairs() {
        assert_eq!(parse_pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        for text in ["a", "=b", "a=", ""] {
            assert!(parse_pair(text).is_err(), "{text}");
        }
    }
}
