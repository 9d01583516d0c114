//! How this VM is ended. Pure.

use crate::{api::PowerAction, config::PowerRule, sys::boot::Reboot};

/// The last call of all.
///
/// Firecracker has no power button: on x86 its guests end by a reset, for which its kernel command line says `reboot=k` (reset by
/// the keyboard controller, which it takes for the end of the VM). Elsewhere to power off is to power off.
pub(super) fn last_call(action: PowerAction, rule: PowerRule, command_line: &str) -> Reboot {
    let by_reset = match rule {
        PowerRule::Reboot => true,
        PowerRule::PowerOff => false,
        PowerRule::Auto => {
            cfg!(target_arch = "x86_64") && command_line.split_ascii_whitespace().any(|word| word == "reboot=k")
        }
    };
    match action {
        PowerAction::Off if !by_reset => Reboot::PowerOff,
        PowerAction::Off | PowerAction::Reboot => Reboot::Restart,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_firecracker_vm_is_ended_by_a_reset_and_others_are_powered_off() {
        let firecracker = "console=ttyS0 reboot=k panic=1 pci=off";
        let call = |rule, line| last_call(PowerAction::Off, rule, line);
        let expected = if cfg!(target_arch = "x86_64") { Reboot::Restart } else { Reboot::PowerOff };
        assert_eq!(call(PowerRule::Auto, firecracker), expected);
        assert_eq!(call(PowerRule::Auto, "console=ttyS0 reboot=kbd"), Reboot::PowerOff);
    }

    #[test]
    fn the_command_line_has_the_last_word() {
        assert_eq!(last_call(PowerAction::Off, PowerRule::PowerOff, "reboot=k"), Reboot::PowerOff);
        assert_eq!(last_call(PowerAction::Off, PowerRule::Reboot, ""), Reboot::Restart);
        assert_eq!(last_call(PowerAction::Reboot, PowerRule::PowerOff, ""), Reboot::Restart);
    }
}
