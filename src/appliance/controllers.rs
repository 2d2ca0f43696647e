//! Controllers, and the places of disks on them.

use super::options::{ControllerModel, TargetProfile};
use crate::error::{Error, Result};
use vmferry_formats::ovf::resource;

/// A controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Controller {
    pub(super) model: ControllerModel,
    /// Its number among those of its kind, from 0.
    pub(super) number: u32,
}

/// The place of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Index of its controller.
    pub(super) controller: usize,
    /// Its number there.
    pub(super) unit: u32,
}

/// Places disks in order, each on a controller of the model that it asks for, and on others when those are
/// full. Gives the controllers, grouped by model, and a place for each disk.
///
/// # Errors
/// The target does not know the model, or has not as many places.
pub(super) fn arrange(
    profile: TargetProfile,
    wanted: &[ControllerModel],
) -> Result<(Vec<Controller>, Vec<Place>)> {
    let mut slots: Vec<(Controller, u32)> = Vec::with_capacity(wanted.len());
    for &model in wanted {
        if most_controllers(profile, model) == 0 {
            return Err(Error::usage(format!("the target {profile} has no disk controller {model}"))
                .with_hint("choose another --disk-bus, or another --target-profile"));
        }
        let choices = [model, ControllerModel::Sata, ControllerModel::Lsilogic];
        let free = choices.iter().find_map(|&model| first_free(profile, model, &slots));
        slots.push(free.ok_or_else(|| {
            Error::refused(format!(
                "{} disks do not fit on the controllers of the target {profile}",
                wanted.len()
            ))
            .with_hint("leave disks out, or split the VM into several appliances")
        })?);
    }
    let mut controllers: Vec<Controller> = Vec::new();
    for (controller, _) in &slots {
        if !controllers.contains(controller) {
            controllers.push(*controller);
        }
    }
    let places = slots.iter().map(|(controller, unit)| {
        let index = controllers.iter().position(|known| known == controller).unwrap_or_default();
        Place { controller: index, unit: *unit }
    });
    Ok((controllers.clone(), places.collect()))
}

/// The first free place of a model: on a controller that is there, else on a new one.
fn first_free(
    profile: TargetProfile,
    model: ControllerModel,
    taken: &[(Controller, u32)],
) -> Option<(Controller, u32)> {
    // Controllers of one resource type share their numbers, and Proxmox their slots.
    let owner = |number: u32| {
        let mut known = taken
            .iter()
            .map(|(controller, _)| controller)
            .filter(|known| known.number == number && known.model.resource_type() == model.resource_type());
        known.next().map(|known| known.model)
    };
    let free_on = |number: u32| {
        let controller = Controller { model, number };
        let mut units = units(profile, model);
        units.find(|unit| !taken.contains(&(controller, *unit))).map(|unit| (controller, unit))
    };
    let numbers = 0..most_controllers(profile, model);
    let on_one_of_its_own = numbers.clone().filter(|number| owner(*number) == Some(model)).find_map(free_on);
    on_one_of_its_own.or_else(|| numbers.clone().filter(|number| owner(*number).is_none()).find_map(free_on))
}

/// How many controllers of a model the target imports. VirtualBox takes one of each but IDE; Proxmox
/// names a disk by bus and slot only, so that a second controller's would collide.
fn most_controllers(profile: TargetProfile, model: ControllerModel) -> u32 {
    use ControllerModel::{Ide, Lsilogic, LsilogicSas, Nvme, Pvscsi, Sata};
    match (profile, model) {
        (TargetProfile::Vmware | TargetProfile::Generic, Ide) => 2,
        (TargetProfile::Vmware | TargetProfile::Generic, _) => 4,
        (TargetProfile::Virtualbox, Ide) => 2,
        (TargetProfile::Virtualbox, Lsilogic | LsilogicSas | Sata) => 1,
        (TargetProfile::Proxmox, Ide | Lsilogic | LsilogicSas | Pvscsi | Sata) => 1,
        (TargetProfile::Virtualbox, Nvme | Pvscsi) | (TargetProfile::Proxmox, Nvme) => 0,
    }
}

/// The numbers of the places on a controller. SCSI's 7 is the controller itself.
fn units(profile: TargetProfile, model: ControllerModel) -> impl Iterator<Item = u32> {
    let count = match (model, profile) {
        (ControllerModel::Ide, _) => 2,
        (ControllerModel::Sata, TargetProfile::Proxmox) => 6,
        (ControllerModel::Sata, _) => 30,
        (ControllerModel::Nvme, _) => 15,
        (ControllerModel::Lsilogic | ControllerModel::LsilogicSas | ControllerModel::Pvscsi, _) => 16,
    };
    (0..count).filter(move |unit| !(model.resource_type() == resource::SCSI && *unit == 7))
}

impl ControllerModel {
    /// The type of its item.
    pub(super) fn resource_type(self) -> u16 {
        match self {
            Self::Ide => resource::IDE,
            Self::Lsilogic | Self::LsilogicSas | Self::Pvscsi => resource::SCSI,
            Self::Nvme | Self::Sata => resource::STORAGE,
        }
    }

    /// The model as the target spells it.
    pub(super) fn sub_type(self, profile: TargetProfile) -> Option<&'static str> {
        match (self, profile) {
            (Self::Ide, TargetProfile::Virtualbox) => Some("PIIX4"),
            (Self::Ide, _) => None,
            (Self::Lsilogic, _) => Some("lsilogic"),
            (Self::LsilogicSas, _) => Some("lsilogicsas"),
            (Self::Nvme, _) => Some("vmware.nvme.controller"),
            (Self::Pvscsi, _) => Some("VirtualSCSI"),
            (Self::Sata, TargetProfile::Virtualbox) => Some("AHCI"),
            // VMware does not know AHCI by that name.
            (Self::Sata, _) => Some("vmware.sata.ahci"),
        }
    }

    /// What people call it.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Ide => "IDE Controller",
            Self::Lsilogic | Self::LsilogicSas | Self::Pvscsi => "SCSI Controller",
            Self::Nvme => "NVMe Controller",
            Self::Sata => "SATA Controller",
        }
    }

    /// The Linux module that drives it.
    pub(super) fn linux_driver(self) -> &'static str {
        match self {
            Self::Ide => "ata_piix",
            Self::Lsilogic => "mptspi",
            Self::LsilogicSas => "mptsas",
            Self::Nvme => "nvme",
            Self::Pvscsi => "vmw_pvscsi",
            Self::Sata => "ahci",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;
    use crate::ErrorKind;
    use ControllerModel::{Ide, Lsilogic, LsilogicSas, Nvme, Pvscsi, Sata};

    fn numbers(
        profile: TargetProfile,
        model: ControllerModel,
        count: usize,
    ) -> Vec<(ControllerModel, u32, u32)> {
        let (controllers, places) = arrange(profile, &vec![model; count]).unwrap();
        let of = |place: &Place| {
            let controller = controllers[place.controller];
            (controller.model, controller.number, place.unit)
        };
        places.iter().map(of).collect()
    }

    #[test]
    fn unit_seven_of_scsi_is_left_free_and_sixteen_disks_need_a_second_controller() {
        let places = numbers(TargetProfile::Vmware, Lsilogic, 16);
        assert_eq!(places[6], (Lsilogic, 0, 6));
        assert_eq!(places[7], (Lsilogic, 0, 8));
        assert_eq!(places[14], (Lsilogic, 0, 15));
        assert_eq!(places[15], (Lsilogic, 1, 0));
    }

    #[test]
    fn full_controllers_give_way_to_others() {
        let places = numbers(TargetProfile::Vmware, Pvscsi, 61);
        assert_eq!(places[59], (Pvscsi, 3, 15));
        assert_eq!(places[60], (Sata, 0, 0));
        let places = numbers(TargetProfile::Proxmox, Sata, 7);
        assert_eq!(places[5..], [(Sata, 0, 5), (Lsilogic, 0, 0)]);
        let places = numbers(TargetProfile::Virtualbox, Sata, 45);
        assert_eq!(places[44], (Lsilogic, 0, 15));
        let places = numbers(TargetProfile::Vmware, Nvme, 61);
        assert_eq!(places[60], (Lsilogic, 0, 0), "NVMe and SATA share their numbers");
    }

    proptest! {
        #[test]
        fn no_controller_is_wasted_whatever_the_order(
            wanted in vec(select(vec![Sata, Nvme, Ide, Lsilogic, LsilogicSas, Pvscsi]), 0..64),
        ) {
            // A model that is full gives way to others: that has its own test.
            let fits = |model| {
                let count = wanted.iter().filter(|other| **other == model).count();
                count.div_ceil(units(TargetProfile::Vmware, model).count())
            };
            let families = [vec![Ide], vec![Sata, Nvme], vec![Lsilogic, LsilogicSas, Pvscsi]];
            let needed: Vec<usize> =
                families.iter().map(|models| models.iter().map(|model| fits(*model)).sum()).collect();
            prop_assume!(needed[0] <= 2 && needed[1] <= 4 && needed[2] <= 4);
            let (controllers, places) = arrange(TargetProfile::Vmware, &wanted).unwrap();
            prop_assert_eq!(controllers.len(), needed.iter().sum::<usize>());
            let of = |place: &Place| (place.controller, place.unit);
            prop_assert_eq!(places.iter().map(of).collect::<BTreeSet<_>>().len(), wanted.len());
            let ids = controllers.iter().map(|found| (found.model.resource_type(), found.number));
            prop_assert_eq!(ids.collect::<BTreeSet<_>>().len(), controllers.len());
            for (model, place) in wanted.iter().zip(&places) {
                prop_assert_eq!(controllers[place.controller].model, *model);
            }
        }
    }

    #[test]
    fn what_does_not_fit_or_is_not_known_is_refused() {
        for (profile, count) in [
            (TargetProfile::Vmware, 181),
            (TargetProfile::Generic, 181),
            (TargetProfile::Virtualbox, 46),
            (TargetProfile::Proxmox, 22),
        ] {
            arrange(profile, &vec![Sata; count - 1]).unwrap();
            let error = arrange(profile, &vec![Sata; count]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{profile}");
        }
        for (profile, model) in [
            (TargetProfile::Virtualbox, Nvme),
            (TargetProfile::Virtualbox, Pvscsi),
            (TargetProfile::Proxmox, Nvme),
        ] {
            assert_eq!(arrange(profile, &[model]).unwrap_err().kind(), ErrorKind::Usage, "{profile} {model}");
        }
    }
}
