//! `guestctl info`.

use crate::api::{AgentCrash, Info};

use super::table::{Cell, Palette, Table, Tone};
use super::text::{bytes, escape, escape_lines};

pub(super) fn render(info: &Info, palette: Palette) -> String {
    let identity = &info.identity;
    let ready = info.boot.ready_secs.map_or_else(|| "not ready yet".to_owned(), |secs| format!("ready {secs:.2} s"));
    let started = info.boot.agent_started_secs;
    let share = |available, total| format!("{} of {} available", bytes(available), bytes(total));
    let lines = [
        ("vm id", identity.vm_id.clone()),
        ("public name", identity.public_name.clone()),
        ("host name", Some(identity.hostname.clone())),
        ("guestd", Some(info.version.clone())),
        ("kernel", Some(format!("{} {}", info.kernel, info.arch))),
        ("system", info.os.clone()),
        ("init", Some(info.init.clone())),
        ("boot", Some(format!("agent started {started:.2} s, {ready} after the kernel"))),
        ("cpus", Some(info.cpus.to_string())),
        ("memory", Some(share(info.memory_available_bytes, info.memory_total_bytes))),
        ("disk", Some(share(info.disk_available_bytes, info.disk_total_bytes))),
        ("features", Some(info.features.join(", "))),
    ];
    let mut table = Table::new(&[]);
    for (name, value) in lines {
        table.row([Cell::toned(Tone::Title, name), Cell::or_dash(value)]);
    }
    table.render(palette) + &boot(info, palette) + &crashes(info, palette)
}

/// What was done before the agent ran, where that is known.
fn boot(info: &Info, palette: Palette) -> String {
    if info.boot.steps.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["BOOT STEP", "AT", "TOOK", "PROBLEM"]);
    for step in &info.boot.steps {
        table.row([
            Cell::new(&step.name),
            Cell::new(format!("{:.3} s", step.at_secs)),
            Cell::new(format!("{:.2} ms", step.took_ms)),
            Cell::or_dash(Some(step.problems.join("; ")).filter(|problems| !problems.is_empty())),
        ]);
    }
    format!("\n{}", table.render(palette))
}

fn crashes(info: &Info, palette: Palette) -> String {
    let crash = |crash: &AgentCrash| {
        let title = format!("agent {} ended by {} at {:.3} s", crash.pid, escape(&crash.exit), crash.at_secs);
        let report = escape_lines(crash.report.trim_end());
        let report: String = report.lines().map(|line| format!("  {line}\n")).collect();
        format!("\n{}\n{report}", palette.paint(Tone::Bad, &title))
    };
    info.agent_crashes.iter().map(crash).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BootStep, BootTimings, Identity};

    #[test]
    fn a_vm_is_described_line_by_line() {
        let info = Info {
            version: "0.1.0".into(),
            kernel: "6.1.0-40-cloud-amd64".into(),
            arch: "x86_64".into(),
            os: Some("Debian GNU/Linux 12 (bookworm)".into()),
            init: "systemd".into(),
            identity: Identity { vm_id: Some("vm-7".into()), hostname: "golden".into(), public_name: None },
            boot: BootTimings {
                agent_started_secs: 2.101,
                ready_secs: Some(2.134),
                steps: vec![BootStep {
                    name: "mounts".into(),
                    at_secs: 1.9,
                    took_ms: 3.25,
                    problems: vec!["no /tmp".into()],
                }],
            },
            agent_crashes: vec![AgentCrash {
                pid: 91,
                at_secs: 7.5,
                exit: "SIGSEGV".into(),
                report: "guestd died\n  0: guestd+0x12\n".into(),
            }],
            cpus: 2,
            memory_total_bytes: 512 << 20,
            memory_available_bytes: 300 << 20,
            disk_total_bytes: 1 << 30,
            disk_available_bytes: 700 << 20,
            features: vec!["vsock".into(), "bridge".into()],
        };
        insta::assert_snapshot!(render(&info, Palette::Plain), @r"
        vm id        vm-7
        public name  -
        host name    golden
        guestd       0.1.0
        kernel       6.1.0-40-cloud-amd64 x86_64
        system       Debian GNU/Linux 12 (bookworm)
        init         systemd
        boot         agent started 2.10 s, ready 2.13 s after the kernel
        cpus         2
        memory       300.0 MiB of 512.0 MiB available
        disk         700.0 MiB of 1.0 GiB available
        features     vsock, bridge

        BOOT STEP  AT       TOOK     PROBLEM
        mounts     1.900 s  3.25 ms  no /tmp

        agent 91 ended by SIGSEGV at 7.500 s
          guestd died
            0: guestd+0x12
        ");
    }
}
