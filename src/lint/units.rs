//! systemd's units as they lie in an image: where each is, what wants it, what it runs. Nothing is run to find out.

use super::tree::{Kind, Place, Tree};

/// Where units are, the first one with a name counts (systemd.unit(5), without what is made while a system runs).
const DIRECTORIES: &[&str] =
    &["/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// What a bare program name is looked for in (systemd's own list).
const PROGRAM_DIRECTORIES: &[&str] = &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Units that can be run by another one of the same name.
const TRIGGERS: &[&str] = &[".socket", ".timer", ".path"];

/// An image's units.
#[derive(Debug)]
pub(super) struct Units<'tree> {
    tree: &'tree Tree,
    directories: Vec<Place<'tree>>,
}

/// A link or file in a `.wants` directory or its like.
#[derive(Debug, Clone)]
pub(super) struct Wanted<'tree> {
    pub(super) place: Place<'tree>,
    pub(super) name: String,
}

/// A unit as it is read, with its drop-ins.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unit {
    /// Section, key, value, in the order in which they count.
    pub(super) settings: Vec<(String, String, String)>,
}

impl<'tree> Units<'tree> {
    pub(super) fn of(tree: &'tree Tree) -> Self {
        let mut directories: Vec<Place<'_>> = Vec::new();
        for place in DIRECTORIES.iter().filter_map(|path| tree.follow(path)) {
            // /lib is a link to /usr/lib in most.
            if place.is_directory() && !directories.contains(&place) {
                directories.push(place);
            }
        }
        Self { tree, directories }
    }

    /// Where the unit of this name is, an instance's template included.
    pub(super) fn find(&self, name: &str) -> Option<Place<'tree>> {
        let named = |name: &str| self.directories.iter().find_map(|directory| directory.child(name.as_bytes()));
        named(name).or_else(|| named(&template(name)?))
    }

    /// Whether a unit is masked: a link to /dev/null, or an empty file.
    pub(super) fn is_masked(&self, unit: Place<'_>) -> bool {
        unit.target().is_some_and(|target| target.ends_with(b"/dev/null")) || (unit.is_file() && unit.facts().size == 0)
    }

    /// Links to units that lead nowhere: other names for what is gone.
    pub(super) fn dangling(&self) -> impl Iterator<Item = Place<'tree>> {
        let links = self.directories.iter().flat_map(|directory| directory.children());
        links.filter(|place| {
            let is_link = place.facts().kind == Kind::Symlink;
            is_link && !self.is_masked(*place) && place.followed().is_none()
        })
    }

    /// All that is wanted by something, in the order of paths.
    pub(super) fn wanted(&self) -> Vec<Wanted<'tree>> {
        let mut wanted = Vec::new();
        for directory in self.directories.iter().flat_map(|directory| directory.children()) {
            let name = directory.name();
            let wants = [&b".wants"[..], b".requires", b".upholds"].iter().any(|end| name.ends_with(end));
            if !wants || !directory.is_directory() {
                continue;
            }
            for place in directory.children().filter(|place| matches!(place.facts().kind, Kind::File | Kind::Symlink)) {
                wanted.push(Wanted { place, name: String::from_utf8_lossy(place.name()).into_owned() });
            }
        }
        wanted
    }

    /// The unit that is run when `name` is started: for a timer and such, the service that it triggers.
    pub(super) fn triggered(&self, name: &str) -> String {
        let Some(stem) = TRIGGERS.iter().find_map(|end| name.strip_suffix(end)) else { return name.to_owned() };
        let explicit = self.read(name).and_then(|unit| {
            let settings = unit.settings.iter();
            let mut named = settings.filter(|(_, key, _)| matches!(key.as_str(), "Unit" | "Service"));
            named.next_back().map(|(.., value)| value.clone())
        });
        explicit.unwrap_or_else(|| format!("{stem}.service"))
    }

    /// Reads a unit and its drop-ins. None where there is no file of it.
    pub(super) fn read(&self, name: &str) -> Option<Unit> {
        let file = self.find(name)?.followed().filter(|file| file.is_file())?;
        let mut unit = Unit::parse(&file.text()?);
        // Of drop-ins with one name the first directory's counts; all together in the order of their names.
        let mut drop_ins: Vec<Place<'_>> = Vec::new();
        let names = [Some(name.to_owned()), template(name)];
        for directory in names.iter().flatten().flat_map(|name| {
            let name = format!("{name}.d");
            self.directories.iter().filter_map(move |directory| directory.child(name.as_bytes()))
        }) {
            for place in directory.followed().into_iter().flat_map(Place::children) {
                if place.name().ends_with(b".conf") && !drop_ins.iter().any(|known| known.name() == place.name()) {
                    drop_ins.push(place);
                }
            }
        }
        drop_ins.sort_by_key(|place| place.name());
        for text in drop_ins.into_iter().filter_map(Place::followed).filter_map(Place::text) {
            unit.settings.extend(Unit::parse(&text).settings);
        }
        Some(unit)
    }

    /// What a program of an `Exec` line leads to; None where there is none.
    pub(super) fn program(&self, program: &str) -> Option<Place<'tree>> {
        if program.starts_with('/') {
            return self.tree.follow(program);
        }
        PROGRAM_DIRECTORIES.iter().find_map(|directory| self.tree.follow(&format!("{directory}/{program}")))
    }
}

impl Unit {
    /// Reads one file. Lines that end with a backslash go on in the next one (systemd.syntax(7)).
    fn parse(text: &str) -> Self {
        let mut unit = Self::default();
        let mut section = String::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                name.clone_into(&mut section);
                continue;
            }
            let mut whole = line.to_owned();
            while whole.ends_with('\\') {
                whole.pop();
                // Comments between are passed over.
                let next = lines.by_ref().find(|line| !line.trim_start().starts_with(['#', ';']));
                whole.push(' ');
                whole.push_str(next.unwrap_or_default().trim());
            }
            if let Some((key, value)) = whole.split_once('=') {
                unit.settings.push((section.clone(), key.trim().to_owned(), value.trim().to_owned()));
            }
        }
        unit
    }

    /// The programs that it runs to start, each with whether a failure of it counts. An empty value takes back those before it.
    pub(super) fn programs(&self) -> Vec<(String, bool)> {
        let mut programs = Vec::new();
        for wanted in ["ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost"] {
            let mut of_key = Vec::new();
            for (_, _, value) in self.settings.iter().filter(|(section, key, _)| section == "Service" && key == wanted)
            {
                match program_of(value) {
                    Some(program) => of_key.push(program),
                    None => of_key.clear(),
                }
            }
            programs.append(&mut of_key);
        }
        programs
    }

    /// Whether it has a condition or an assertion with this value: then it is not run where that does not hold.
    pub(super) fn is_conditional_on(&self, value: &str) -> bool {
        self.settings.iter().any(|(section, key, condition)| {
            section == "Unit"
                && (key.starts_with("Condition") || key.starts_with("Assert"))
                && condition.trim_start_matches(['|', '!']) == value
        })
    }

    /// Whether its programs are looked for in a root of its own.
    pub(super) fn has_own_root(&self) -> bool {
        self.settings
            .iter()
            .any(|(_, key, value)| matches!(key.as_str(), "RootDirectory" | "RootImage") && !value.is_empty())
    }
}

/// The program of an `Exec` line and whether its failure counts; None for an empty line.
fn program_of(line: &str) -> Option<(String, bool)> {
    let bare = line.trim_start_matches(['@', '-', ':', '+', '!', '|']);
    let counts = !line[..line.len() - bare.len()].contains('-');
    let program = match bare.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => bare.split_ascii_whitespace().next(),
    };
    program.filter(|program| !program.is_empty()).map(|program| (program.to_owned(), counts))
}

/// `getty@.service` for `getty@tty1.service`.
fn template(name: &str) -> Option<String> {
    let (stem, rest) = name.split_once('@')?;
    let (_, kind) = rest.rsplit_once('.')?;
    Some(format!("{stem}@.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_on_after_a_backslash_and_comments_do_not_count() {
        let unit = Unit::parse("[Service]\n# ExecStart=/no\nExecStart=/bin/a \\\n; between\n  b\n[Unit]\nAfter = x\n");
        let setting = |section: &str, key: &str, value: &str| (section.to_owned(), key.to_owned(), value.to_owned());
        assert_eq!(unit.settings, [setting("Service", "ExecStart", "/bin/a  b"), setting("Unit", "After", "x")]);
    }

    #[test]
    fn programs_are_those_that_are_left_after_an_empty_line() {
        let unit = Unit::parse(
            "[Service]\nExecStart=/bin/old\nExecStart=\nExecStart=-@\"/bin/with blank\" x\nExecStartPre=+bare y\n",
        );
        assert_eq!(unit.programs(), [("bare".to_owned(), true), ("/bin/with blank".to_owned(), false)]);
        assert_eq!(Unit::parse("ExecStart=/bin/x").programs(), [], "outside of its section");
    }

    #[test]
    fn conditions_are_known_by_their_value() {
        let unit = Unit::parse("[Unit]\nConditionFileIsExecutable=|!/bin/x\n");
        assert!(unit.is_conditional_on("/bin/x") && !unit.is_conditional_on("/bin/y"));
    }

    #[test]
    fn an_instance_has_a_template() {
        assert_eq!(template("getty@tty1.service").as_deref(), Some("getty@.service"));
        assert_eq!(template("ssh.service"), None);
    }
}
