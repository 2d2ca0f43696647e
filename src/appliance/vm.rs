//! A KubeVirt VM, with instancetype and preference written out, as [`Hardware`]: contract section 5.

use serde_json::Value;

use super::{
    Warning,
    annotation::KUBEVIRT,
    fields::account,
    hardware::{Architecture, Cpu, Firmware, GuestOs, Hardware, OsFamily},
    interfaces::nics,
    seen::VmSeen,
    storage::disks,
    uuid::uuid_of,
};
use crate::{
    error::{Error, Result},
    quantity::parse_quantity,
};

/// The hardware of a VM, and what of it cannot be carried over. The VM is the whole object, with its
/// instancetype and preference written out (`expand-spec`).
///
/// # Errors
/// It is not a VM, does not say how much memory it has, or has something else where a number must be.
pub fn of_vm(vm: &Value) -> Result<(Hardware, Vec<Warning>)> {
    of_vm_with(vm, &VmSeen::default())
}

/// The same with what was seen of the VM besides: what the guest says of itself is the first hint at its operating
/// system, the preference the last; a card whose MAC address the VM does not state has the one that was seen.
///
/// # Errors
/// As [`of_vm`].
pub fn of_vm_with(vm: &Value, seen: &VmSeen) -> Result<(Hardware, Vec<Warning>)> {
    let kind = vm.get("kind").and_then(Value::as_str).unwrap_or(KIND);
    let Some(spec) = vm.pointer(TEMPLATE).filter(|spec| spec.is_object() && kind == KIND) else {
        return Err(Error::usage(format!(
            "this is no VirtualMachine: kind {kind:?}, without spec.template.spec or not"
        ))
        .with_hint(DESCRIBED_BY));
    };
    let mut reader = Reader { vm, spec, seen, warnings: Vec::new() };
    let hardware = reader.hardware()?;
    reader.warn_of_references();
    reader.warn_of_annotations();
    let mut warnings = reader.warnings;
    account(vm, &mut warnings);
    Ok((hardware, warnings))
}

/// A VM that is being read.
pub(super) struct Reader<'a> {
    vm: &'a Value,
    pub(super) spec: &'a Value,
    pub(super) seen: &'a VmSeen,
    pub(super) warnings: Vec<Warning>,
}

impl<'a> Reader<'a> {
    fn hardware(&mut self) -> Result<Hardware> {
        let metadata = |field: &str| self.vm.pointer(&format!("/metadata/{field}")).and_then(Value::as_str);
        let own_name = metadata("name").filter(|name| !name.is_empty());
        let name = own_name.unwrap_or("vm").to_owned();
        let origin = match metadata("namespace") {
            Some(namespace) => format!("{KUBEVIRT}{namespace}/{name}"),
            None => format!("{KUBEVIRT}{name}"),
        };
        let architecture = match self.text("/architecture") {
            None | Some("amd64" | "x86_64") => Architecture::X86_64,
            Some("arm64" | "aarch64") => Architecture::Aarch64,
            Some("s390x") => Architecture::S390x,
            Some(other) => Architecture::Other(other.to_owned()),
        };
        let is_arm = architecture == Architecture::Aarch64;
        let (memory, memory_can_grow) = self.memory()?;
        let disks = disks(self, &architecture);
        let nics = nics(self);
        let firmware = self.firmware(is_arm);
        Ok(Hardware {
            description: self.annotation("description").map(str::to_owned),
            cpu: self.cpu()?,
            memory,
            memory_can_grow,
            firmware,
            has_tpm: self.is_set("/domain/devices/tpm")
                && self.get("/domain/devices/tpm/enabled") != Some(&Value::Bool(false)),
            has_sound: self.is_set("/domain/devices/sound"),
            machine: self.text("/domain/machine/type").map(str::to_owned),
            uuid: self.text("/domain/firmware/uuid").map(str::to_owned).or_else(|| own_name.map(uuid_of)),
            serial: self.text("/domain/firmware/serial").map(str::to_owned),
            os: self.os(),
            name,
            origin: Some(origin),
            platform: None,
            product: None,
            vendor: None,
            architecture,
            disks,
            nics,
        })
    }

    fn cpu(&mut self) -> Result<Cpu> {
        let field = |name: &str| self.count(&format!("/domain/cpu/{name}"));
        let (sockets, cores, threads) = (field("sockets")?, field("cores")?, field("threads")?);
        let mut cpu = Cpu {
            sockets: sockets.unwrap_or(1),
            cores: cores.unwrap_or(1),
            threads: threads.unwrap_or(1),
            ..Cpu::default()
        };
        if sockets.or(cores).or(threads).is_none() {
            self.is_expanded("how many CPUs")?;
            let asked = self.first_of(&["/domain/resources/limits/cpu", "/domain/resources/requests/cpu"])?;
            // Too many are refused with those that are.
            cpu.sockets = asked.map_or(1, |count| u32::try_from(count).unwrap_or(u32::MAX));
        }
        if cpu.count().is_none() {
            return Err(Error::usage(format!(
                "the VM has {} x {} x {} CPUs",
                cpu.sockets, cpu.cores, cpu.threads
            )));
        }
        cpu.can_grow = self.count("/domain/cpu/maxSockets")?.is_some_and(|most| most > cpu.sockets);
        if cpu.threads > 1 {
            self.warn(
                "domain.cpu.threads",
                format!("threads of a core become cores: {} a socket", cpu.cores * cpu.threads),
                "check software that is licensed by cores",
            );
        }
        if let Some(model) = self.text("/domain/cpu/model").filter(|model| !model.starts_with("host-")) {
            let message = format!("the guest sees the CPU of its host, not {model:?}");
            self.warn(
                "domain.cpu.model",
                message,
                "choose hosts or a compatibility mode (EVC) where the appliance runs",
            );
        }
        let features = self.list("/domain/cpu/features");
        for (index, feature) in features.iter().enumerate() {
            let name = feature.get("name").and_then(Value::as_str).unwrap_or_default();
            let policy = feature.get("policy").and_then(Value::as_str).unwrap_or("require");
            match (name, policy) {
                ("vmx" | "svm", "require" | "force" | "optional") => cpu.is_nesting = true,
                _ => self.warn(
                    &format!("domain.cpu.features[{index}]"),
                    format!("the CPU feature {name:?} is not set to {policy:?}"),
                    "choose hosts or a CPU mask where the appliance runs, if the guest depends on it",
                ),
            }
        }
        Ok(cpu)
    }

    /// Bytes of memory, and whether there can be more.
    fn memory(&mut self) -> Result<(u64, bool)> {
        let memory = self.first_of(&[
            "/domain/memory/guest",
            "/domain/resources/requests/memory",
            "/domain/resources/limits/memory",
            "/domain/memory/hugepages/pageSize",
        ])?;
        let most = self.first_of(&["/domain/memory/maxGuest"])?;
        if self.is_set("/domain/memory/hugepages") {
            self.warn(
                "domain.memory.hugepages",
                "memory is not in huge pages",
                "reserve memory where the appliance runs",
            );
        }
        let Some(memory) = memory else {
            self.is_expanded("how much memory")?;
            return Err(Error::usage(
                "the VM does not say how much memory it has, in domain.memory.guest or elsewhere",
            ));
        };
        Ok((memory, most.is_some_and(|most| most > memory)))
    }

    fn firmware(&mut self, is_arm: bool) -> Firmware {
        match self.get("/domain/firmware/bootloader/efi").filter(|efi| !efi.is_null()) {
            // KubeVirt's default.
            Some(efi) => {
                Firmware::Efi { secure_boot: efi.get("secureBoot").and_then(Value::as_bool).unwrap_or(true) }
            }
            None if is_arm => Firmware::Efi { secure_boot: false },
            None => Firmware::Bios,
        }
    }

    /// The first hint, or one behind it that says the same more exactly (contract section 5).
    fn os(&self) -> Option<GuestOs> {
        let labels = ["/metadata/labels", "/spec/template/metadata/labels"];
        let labels = labels.iter().filter_map(|place| self.vm.pointer(place)?.as_object());
        let marked = labels.flatten().filter_map(|(label, value)| {
            let os = label.strip_prefix("os.template.kubevirt.io/")?;
            (value.as_str() == Some("true")).then_some(os)
        });
        let label = ["/metadata/labels/kubevirt.io~1os", "/spec/template/metadata/labels/kubevirt.io~1os"];
        let label = label.iter().filter_map(|place| self.vm.pointer(place)?.as_str());
        let preference = self.vm.pointer("/spec/preference/name").and_then(Value::as_str);
        let hints = (self.seen.guest_os.iter().map(String::as_str))
            .chain(self.annotation("vm.kubevirt.io/os"))
            .chain(marked)
            .chain(label)
            .chain(preference)
            .chain(self.seen.preference.as_deref());
        let mut known = hints.filter_map(GuestOs::from_hint);
        let Some(first) = known.next() else {
            let hyperv =
                self.is_set("/domain/features/hyperv") || self.is_set("/domain/features/hypervPassthrough");
            return hyperv.then(|| GuestOs::from_hint("windows")).flatten();
        };
        if first.is_specific() {
            return Some(first);
        }
        // What contradicts it is not more exact.
        let fits = |os: &GuestOs| first.family == OsFamily::Other || os.family == first.family;
        let exact = known.find(|os| os.is_specific() && fits(os));
        Some(exact.unwrap_or(first))
    }

    /// An annotation of the template or of the VM.
    fn annotation(&self, name: &str) -> Option<&'a str> {
        let name = name.replace('/', "~1");
        let places = ["/spec/template/metadata/annotations", "/metadata/annotations"];
        let found = places.iter().find_map(|place| self.vm.pointer(&format!("{place}/{name}"))?.as_str());
        found.filter(|value| !value.is_empty())
    }

    /// Expansion takes the references out: where one is, what it sets is missing here.
    fn warn_of_references(&mut self) {
        for (field, sets) in REFERENCES {
            let Some(name) = self.vm.pointer(&format!("/spec/{field}/name")).and_then(Value::as_str) else {
                continue;
            };
            self.warnings.push(Warning::new(
                format!("spec.{field}"),
                format!("the {field} {name:?} is not written out: what it sets ({sets}) is not described"),
                EXPAND,
            ));
        }
    }

    /// What KubeVirt itself makes of the template's annotations; those of others make no difference.
    fn warn_of_annotations(&mut self) {
        let annotations = self.vm.pointer("/spec/template/metadata/annotations");
        for (name, message, remedy) in ANNOTATIONS {
            let value = annotations.and_then(|all| all.get(name)).and_then(Value::as_str);
            if value.is_some_and(|value| !value.is_empty()) {
                let field = format!("spec.template.metadata.annotations[{name}]");
                self.warnings.push(Warning::new(field, message, remedy));
            }
        }
    }

    /// Fails if what is missed may stand in an instancetype.
    fn is_expanded(&self, what: &str) -> Result<()> {
        match self.vm.pointer("/spec/instancetype/name").and_then(Value::as_str) {
            None => Ok(()),
            Some(name) => Err(Error::usage(format!(
                "the VM does not say {what} it has, its instancetype {name:?} does, and that is not written out"
            ))
            .with_hint(EXPAND)),
        }
    }

    pub(super) fn warn(&mut self, field: &str, message: impl Into<String>, remedy: &str) {
        self.warnings.push(Warning::new(format!("spec.template.spec.{field}"), message, remedy));
    }

    pub(super) fn get(&self, pointer: &str) -> Option<&'a Value> {
        self.spec.pointer(pointer)
    }

    pub(super) fn is_set(&self, pointer: &str) -> bool {
        self.get(pointer).is_some_and(|value| !value.is_null())
    }

    /// A text that is not empty.
    pub(super) fn text(&self, pointer: &str) -> Option<&'a str> {
        self.get(pointer).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// The items of a list.
    pub(super) fn list(&self, pointer: &str) -> &'a [Value] {
        self.get(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// A number from 1; 0 is none, as it is to KubeVirt. What is no number must not become a default in silence.
    fn count(&self, pointer: &str) -> Result<Option<u32>> {
        let Some(value) = self.get(pointer).filter(|value| !value.is_null()) else { return Ok(None) };
        match value.as_u64().and_then(|count| u32::try_from(count).ok()) {
            Some(count) => Ok(Some(count).filter(|count| *count > 0)),
            None => Err(no_number(pointer, value, "write a whole number, without quotation marks")),
        }
    }

    /// The first of the quantities that is set and not 0.
    fn first_of(&self, pointers: &[&str]) -> Result<Option<u64>> {
        for pointer in pointers {
            let Some(value) = self.get(pointer).filter(|value| !value.is_null()) else { continue };
            match quantity_of(value) {
                Some(0) => {}
                Some(quantity) => return Ok(Some(quantity)),
                None => {
                    return Err(no_number(pointer, value, "write a quantity of Kubernetes: 4Gi, 512Mi, 2"));
                }
            }
        }
        Ok(None)
    }
}

fn no_number(pointer: &str, value: &Value, hint: &str) -> Error {
    let field = pointer.replace('/', ".");
    let value: String = value.to_string().chars().take(64).collect();
    Error::usage(format!("the VM's spec.template.spec{field} is {value}, which is no number that can be"))
        .with_hint(hint)
}

/// A number from 1.
pub(super) fn count_of(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0)
}

/// A quantity: text, or a number where YAML made one of it.
fn quantity_of(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => parse_quantity(text),
        Value::Number(number) => parse_quantity(&number.to_string()),
        _ => None,
    }
}

/// What describes a VM, for hints.
pub(super) const DESCRIBED_BY: &str = "a VM is described by the vm.yaml of an export, or by 'kubectl get vm NAME -o yaml'; one \
     with an instancetype or a preference only by 'kubectl get --raw \
     /apis/subresources.kubevirt.io/v1/namespaces/NS/virtualmachines/NAME/expand-spec'";

/// How to have references written out.
const EXPAND: &str = "take the vm.yaml of 'vmferry export', or 'kubectl get --raw \
     /apis/subresources.kubevirt.io/v1/namespaces/NS/virtualmachines/NAME/expand-spec'";

/// What a VM refers to, and what of the hardware that may set.
const REFERENCES: [(&str, &str); 2] = [
    ("instancetype", "CPUs, memory, devices of the host"),
    ("preference", "firmware, Secure Boot, TPM, disk buses, models of network cards"),
];

/// Annotations of a template that change the machine, what is lost with them, and the remedy.
const ANNOTATIONS: [(&str, &str, &str); 2] = [
    (
        "hooks.kubevirt.io/hookSidecars",
        "programs changed the machine as it was started, and what they did is not described",
        "look up what they do, and set it up by hand where the appliance is imported",
    ),
    (
        "kubevirt.io/ignitiondata",
        "the Ignition configuration is not in the appliance",
        "nothing to do, once the guest is set up",
    ),
];

const KIND: &str = "VirtualMachine";

const TEMPLATE: &str = "/spec/template/spec";
