//! Descriptors for tests: everything that the model can hold, and text that tries to break out.

use super::{
    Disk, Envelope, File, Hardware, Item, Network, Number, OperatingSystem, Product, Setting, System,
    VirtualSystem, resource,
};
use crate::{num::to_usize, testkit::Rng};

/// A descriptor; equal seeds give equal ones. All numbers are known.
pub fn sample(seed: u64) -> Envelope {
    let mut sampler = Sampler(Rng::new(seed));
    sampler.envelope()
}

struct Sampler(Rng);

impl Sampler {
    fn envelope(&mut self) -> Envelope {
        let files = self.list(4, |this, index| File {
            id: format!("file{index}{}", this.text()),
            href: format!("disk-{index}.vmdk"),
            size: this.maybe(|this| Number::Known(this.number())),
            chunk_size: this.maybe(Self::number),
            compression: this.maybe(|this| (*this.one(&["gzip", "identity"])).to_owned()),
        });
        let disks = self.list(4, |this, index| Disk {
            id: format!("disk{index}{}", this.text()),
            capacity: this.number(),
            file_ref: this.maybe(|this| {
                files.get(this.below(files.len())).map_or_else(|| this.text(), |f| f.id.clone())
            }),
            format: this.maybe(Self::text),
            populated_size: this.maybe(|this| Number::Known(this.number())),
            parent_ref: this.maybe(Self::text),
        });
        let networks =
            self.list(3, |this, _| Network { name: this.text(), description: this.maybe(Self::text) });
        Envelope { files, disks, networks, system: self.system(), unknown: Vec::new() }
    }

    fn system(&mut self) -> VirtualSystem {
        VirtualSystem {
            id: self.text(),
            name: self.maybe(Self::text),
            os: self.maybe(|this| OperatingSystem {
                id: u16::try_from(this.below(200)).unwrap_or(1),
                version: this.maybe(Self::text),
                description: this.maybe(Self::text),
                vmw_os_type: this.maybe(Self::text),
            }),
            hardware: Hardware {
                transport: self.maybe(Self::text),
                system: self.maybe(|this| System {
                    element_name: this.text(),
                    instance_id: this.text(),
                    identifier: this.maybe(Self::text),
                    system_type: this.maybe(Self::text),
                }),
                items: self.list(12, |this, _| this.item()),
                config: self.settings(),
                extra_config: self.settings(),
            },
            products: self.list(2, |this, _| Product {
                product: this.maybe(Self::text),
                vendor: this.maybe(Self::text),
                version: this.maybe(Self::text),
                full_version: this.maybe(Self::text),
                product_url: this.maybe(Self::text),
                vendor_url: this.maybe(Self::text),
            }),
            annotation: self.maybe(Self::text),
        }
    }

    fn item(&mut self) -> Item {
        use resource as r;
        let kinds =
            [r::OTHER, r::CPU, r::MEMORY, r::IDE, r::SCSI, r::ETHERNET, r::CD, r::DISK, r::STORAGE, r::USB];
        Item {
            is_optional: self.below(2) == 0,
            bound: self.maybe(Self::text),
            configuration: self.maybe(Self::text),
            address: self.maybe(Self::text),
            address_on_parent: self.maybe(Self::text),
            allocation_units: self.maybe(Self::text),
            automatic_allocation: self.maybe(|this| this.below(2) == 0),
            connections: self.list(2, |this, _| this.text()),
            description: self.maybe(Self::text),
            element_name: self.text(),
            host_resources: self.list(2, |this, _| this.text()),
            instance_id: self.text(),
            limit: self.maybe(Self::number),
            parent: self.maybe(Self::text),
            reservation: self.maybe(Self::number),
            resource_sub_type: self.maybe(Self::text),
            resource_type: *self.one(&kinds),
            virtual_quantity: self.maybe(Self::number),
            cores_per_socket: self.maybe(|this| u32::try_from(this.below(128)).unwrap_or(1)),
            config: self.settings(),
        }
    }

    fn settings(&mut self) -> Vec<Setting> {
        self.list(2, |this, _| Setting { key: this.text(), value: this.text() })
    }

    /// Not empty; never only what readers may take for indentation.
    fn text(&mut self) -> String {
        const PIECES: [&str; 20] = [
            "a",
            "disk 1",
            "<",
            ">",
            "&",
            "\"",
            "'",
            "]]>",
            "<!--",
            "&amp;",
            "&#0;",
            "\n",
            "\r\n",
            "\r",
            "\t",
            "  ",
            "ä",
            "\u{1f4be}",
            "${x}",
            "<vmferry-size-00000>",
        ];
        (0..=self.below(4)).map(|_| *self.one(&PIECES)).collect()
    }

    /// As large as the schema's smallest type of numbers takes.
    fn number(&mut self) -> u64 {
        let bits = self.0.below(63);
        self.0.below(1 << bits.max(1))
    }

    fn below(&mut self, bound: usize) -> usize {
        to_usize(self.0.below(u64::try_from(bound.max(1)).unwrap_or(1)))
    }

    fn one<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(3) > 0).then(|| make(self))
    }

    fn list<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self, usize) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|index| make(self, index)).collect()
    }
}
