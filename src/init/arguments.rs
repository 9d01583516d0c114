//! The command line of `guestd init`. Pure.
//!
//! Without `--` it is process 1 of a VM, and whatever the kernel passes on (`single`, `splash`) is ignored: a wrong word must not
//! keep a VM from booting. With `--` it is a container's entry point, and its options are those of tini and dumb-init.

use std::ffi::OsString;

use crate::signals;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Process 1 of a VM.
    Vm,
    /// The entry point of a container.
    Container(Container),
}

/// How a container's command is to be run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Container {
    /// `-g`: signals go to its process group.
    pub(super) group: bool,
    /// `-s`: orphans come to us though we are not process 1.
    pub(super) subreaper: bool,
    /// `-w`: tell of each orphan that was reaped.
    pub(super) warn: bool,
    /// `-e CODE`: exit statuses that count as 0.
    pub(super) success: Vec<u8>,
    /// `-r FROM:TO`: what is forwarded for a signal; 0 for nothing.
    pub(super) rewrites: Vec<(i32, i32)>,
    /// `-p SIGNAL`: what we get when our own parent ends.
    pub(super) parent_death: Option<i32>,
    /// Program and arguments.
    pub(super) argv: Vec<OsString>,
}

/// For whoever misspelt it.
pub(super) const USAGE: &str = "\
usage: guestd init                                  as process 1 of a VM
       guestd init [OPTION]... -- PROGRAM [ARG]...  as the entry point of a container

  -g            signals go to the program's whole process group
  -s            adopt orphans although this is not process 1
  -w            say so when an orphan was reaped
  -e CODE       exit with 0 where the program exits with CODE; may repeat
  -r FROM:TO    forward signal TO where FROM arrives; TO may be 0, for nothing; may repeat
  -p SIGNAL     get this signal when the parent ends";

impl Mode {
    /// Reads the words after `init`.
    ///
    /// # Errors
    /// A sentence, where there is `--` and an option before it is wrong.
    pub(super) fn parse(words: &[OsString]) -> Result<Self, String> {
        let Some(end) = words.iter().position(|word| word == "--") else { return Ok(Self::Vm) };
        let mut container = Container { argv: words[end + 1..].to_vec(), ..Container::default() };
        if container.argv.is_empty() {
            return Err("no program after `--`".to_owned());
        }
        let mut options = words[..end].iter().map(|word| word.to_string_lossy().into_owned());
        while let Some(option) = options.next() {
            let mut value = |attached: &str| match attached {
                "" => options.next().ok_or_else(|| format!("{option} wants a value")),
                attached => Ok(attached.to_owned()),
            };
            match option.get(..2).map(|name| (name, &option[2..])) {
                Some(("-g", "")) => container.group = true,
                Some(("-s", "")) => container.subreaper = true,
                Some(("-w", "")) => container.warn = true,
                Some(("-e", rest)) => container.success.push(exit_status(&value(rest)?)?),
                Some(("-r", rest)) => container.rewrites.push(rewrite(&value(rest)?)?),
                Some(("-p", rest)) => container.parent_death = Some(signal(&value(rest)?)?),
                _ => return Err(format!("there is no option {option}")),
            }
        }
        Ok(Self::Container(container))
    }
}

impl Container {
    /// What to forward for a signal; none for nothing.
    pub(super) fn forwarded(&self, signal: i32) -> Option<i32> {
        // The last word counts, as for every option.
        let rewritten = self.rewrites.iter().rev().find(|(from, _)| *from == signal).map_or(signal, |(_, to)| *to);
        (rewritten != 0).then_some(rewritten)
    }

    /// Our own exit status for the program's.
    pub(super) fn exit_status(&self, status: u8) -> u8 {
        if self.success.contains(&status) { 0 } else { status }
    }
}

fn exit_status(text: &str) -> Result<u8, String> {
    text.parse().map_err(|_| format!("-e {text}: an exit status is a number from 0 to 255"))
}

fn signal(text: &str) -> Result<i32, String> {
    signals::number(text).ok_or_else(|| format!("there is no signal {text}"))
}

fn rewrite(text: &str) -> Result<(i32, i32), String> {
    let (from, to) = text.split_once(':').ok_or_else(|| format!("-r {text}: it takes two signals, FROM:TO"))?;
    Ok((signal(from)?, if to == "0" { 0 } else { signal(to)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Mode, String> {
        Mode::parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    fn container(line: &str) -> Container {
        match parse(line) {
            Ok(Mode::Container(container)) => container,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn words_of_the_kernel_do_not_keep_a_vm_from_booting() {
        for line in ["", "single", "-e", "splash=silent 3", "-x -y"] {
            assert_eq!(parse(line), Ok(Mode::Vm), "{line}");
        }
    }

    #[test]
    fn what_follows_the_dashes_is_the_programs_own() {
        assert_eq!(container("-g -- prog -s -- -e 1").argv, ["prog", "-s", "--", "-e", "1"]);
        assert_eq!(parse("-g --"), Err("no program after `--`".to_owned()));
    }

    #[test]
    fn exit_statuses_that_count_as_success_are_remapped_and_others_are_not() {
        let container = container("-e 143 -e0 -e 7 -- prog");
        let statuses = [143, 7, 0, 1, 255].map(|status| container.exit_status(status));
        assert_eq!(statuses, [0, 0, 0, 1, 255]);
        for bad in ["-e 256 -- p", "-e -1 -- p", "-e x -- p", "-e -- p"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn signals_are_rewritten_the_last_word_counts_and_0_is_nothing() {
        let container = container("-r TERM:QUIT -r 15:INT -r SIGHUP:0 -- prog");
        let forwarded = [15, 1, 2].map(|signal| container.forwarded(signal));
        assert_eq!(forwarded, [Some(2), None, Some(2)]);
        for bad in ["-r TERM -- p", "-r TERM:NOPE -- p", "-r 0:TERM -- p"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_unknown_option_is_refused_before_anything_runs() {
        assert_eq!(parse("-gs -- p"), Err("there is no option -gs".to_owned()));
        assert_eq!(parse("--help -- p"), Err("there is no option --help".to_owned()));
    }
}
