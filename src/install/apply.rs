//! Does what was planned. Whatever ends it half-way, the next run goes on from there.

use super::{
    InstallError,
    contents::Content,
    manifest::MANIFEST,
    plan::{Act, DIRECTORY_MODE, Plan, SAVED_SUFFIX, Step, owner},
};
use crate::sys::root_dir::{Entry, Existing, RootDir, RootDirError};

/// Carries out all steps of a plan, after it has noted in the record what it is about to put where: what is there of an interrupted
/// run is known for guestd's by the next one.
pub(super) fn apply(root: &RootDir, plan: &Plan<'_>) -> Result<(), InstallError> {
    if let Some(record) = &plan.meanwhile {
        make_parent(root, MANIFEST)?;
        write(root, MANIFEST, &Content::Text(record.into()), 0o644, Existing::Replace)?;
    }
    plan.steps.iter().try_for_each(|step| perform(root, step))
}

fn perform(root: &RootDir, step: &Step<'_>) -> Result<(), InstallError> {
    let path = step.line.path.as_str();
    let saved = || format!("{path}{SAVED_SUFFIX}");
    match &step.act {
        Act::Nothing => {}
        Act::MakeDirectory => {
            root.make_directories(path, DIRECTORY_MODE, owner())?;
        }
        Act::SetAccess(mode) => match root.look(path)? {
            Entry::File(file) => file.set_access(*mode, owner())?,
            _ => {
                if let Some(directory) = root.follow_directory(path)? {
                    directory.set_access(*mode, owner())?;
                }
            }
        },
        Act::Write { content, mode, existing } => {
            make_parent(root, path)?;
            write(root, path, content, *mode, *existing)?;
        }
        Act::Rewrite { text, mode, owner } => {
            root.write(path, &mut text.as_slice(), *mode, *owner, Existing::Replace)?;
        }
        Act::MakeLink(target) => {
            make_parent(root, path)?;
            root.make_link(path, target)?;
        }
        Act::ReplaceLink(target) => root.replace_link(path, target)?,
        Act::SaveAndLink(target) => {
            let saved = saved();
            if !root.is_one(path, &saved)? {
                root.add_name(path, name(&saved))?;
            }
            root.replace_link(path, target)?;
        }
        Act::Remove => drop(root.remove(path)?),
        Act::RemoveDirectory => {
            root.remove_directory(path)?;
        }
        Act::Restore => root.rename(&saved(), name(path))?,
    }
    Ok(())
}

fn write(root: &RootDir, path: &str, content: &Content<'_>, mode: u32, existing: Existing) -> Result<(), InstallError> {
    root.write(path, &mut content.reader()?, mode, owner(), existing)?;
    Ok(())
}

fn make_parent(root: &RootDir, path: &str) -> Result<(), RootDirError> {
    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    root.make_directories(parent, DIRECTORY_MODE, owner()).map(drop)
}

fn name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}
