//! `firecracker.json`, which cannot be run here: its fields are those of Firecracker's interface.

use serde_json::{Map, Value};

use crate::workshop::top;

/// A field of the interface, as its description (`firecracker.yaml`, of Firecracker 1.16) has it.
struct Section {
    name: &'static str,
    is_list: bool,
    required: &'static [&'static str],
    optional: &'static [&'static str],
}

const SECTIONS: [Section; 6] = [
    Section {
        name: "boot-source",
        is_list: false,
        required: &["kernel_image_path"],
        optional: &["boot_args", "initrd_path"],
    },
    Section {
        name: "drives",
        is_list: true,
        // is_read_only and path_on_host: of drives that are files.
        required: &["drive_id", "is_root_device", "is_read_only", "path_on_host"],
        optional: &["partuuid", "cache_type", "rate_limiter", "io_engine"],
    },
    Section {
        name: "machine-config",
        is_list: false,
        required: &["vcpu_count", "mem_size_mib"],
        optional: &["cpu_template", "smt", "track_dirty_pages", "huge_pages"],
    },
    Section {
        name: "network-interfaces",
        is_list: true,
        required: &["iface_id", "host_dev_name"],
        optional: &["guest_mac", "mtu", "rx_rate_limiter", "tx_rate_limiter"],
    },
    Section { name: "vsock", is_list: false, required: &["guest_cid", "uds_path"], optional: &[] },
    Section { name: "entropy", is_list: false, required: &[], optional: &["rate_limiter"] },
];

fn check(section: &Section, value: &Map<String, Value>) {
    for field in section.required {
        assert!(value.contains_key(*field), "{} wants {field}", section.name);
    }
    for field in value.keys() {
        let known = section.required.iter().chain(section.optional).any(|known| known == field);
        assert!(known, "{} has no field {field}", section.name);
    }
}

#[test]
fn firecracker_json_has_the_fields_of_firecrackers_interface() {
    let text = std::fs::read_to_string(top().join("image/firecracker.json")).unwrap();
    let config: Map<String, Value> = serde_json::from_str(&text).unwrap();
    for (name, value) in &config {
        let section = SECTIONS.iter().find(|section| section.name == name);
        let section = section.unwrap_or_else(|| panic!("Firecracker knows no {name}"));
        let parts = match value {
            Value::Array(parts) if section.is_list => parts.iter().collect(),
            value => vec![value],
        };
        for part in parts {
            check(section, part.as_object().unwrap_or_else(|| panic!("{name} is no object")));
        }
    }
    for needed in ["boot-source", "drives", "machine-config", "vsock"] {
        assert!(config.contains_key(needed), "a VM with guestd in it wants {needed}");
    }
    assert!(config["vsock"]["guest_cid"].as_u64().unwrap() >= 3, "0 to 2 are no guest's");
}
