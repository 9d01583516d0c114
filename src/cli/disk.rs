//! `guestctl disk grow`.

use crate::api::{DiskGrow, DiskGrown};
use crate::client::Client;

use super::failure::{Failure, exit};
use super::output::Output;
use super::table::Palette;
use super::text::{bytes, escape};

pub(super) async fn grow(
    client: &Client,
    path: Option<String>,
    size: Option<u64>,
    output: Output,
) -> Result<u8, Failure> {
    let grown = client.grow_disk(&DiskGrow { path, size_bytes: size }).await?;
    output.show(&grown, render)?;
    Ok(exit::OK)
}

fn render(grown: &DiskGrown, _palette: Palette) -> String {
    let [path, filesystem, device] = [&grown.path, &grown.filesystem, &grown.device].map(|text| escape(text));
    let after = bytes(grown.after_bytes);
    let what = match grown.grown {
        true => format!("has grown from {} to {after}", bytes(grown.before_bytes)),
        false => format!("has {after} already, of {}", bytes(grown.device_bytes)),
    };
    format!("{path} ({filesystem} on {device}) {what}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_grown_is_told_with_both_sizes() {
        let grown = DiskGrown {
            path: "/".to_owned(),
            filesystem: "ext4".to_owned(),
            device: "/dev/vda".to_owned(),
            grown: true,
            before_bytes: 1 << 30,
            after_bytes: 2 << 30,
            device_bytes: 2 << 30,
        };
        insta::assert_snapshot!(render(&grown, Palette::Plain), @"/ (ext4 on /dev/vda) has grown from 1.0 GiB to 2.0 GiB");
        let same = DiskGrown { grown: false, ..grown };
        insta::assert_snapshot!(render(&same, Palette::Plain), @"/ (ext4 on /dev/vda) has 2.0 GiB already, of 2.0 GiB");
    }
}
