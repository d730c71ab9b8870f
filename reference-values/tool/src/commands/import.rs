//! `import`: a release from what a shop already has.

use reference_values::Content;

use super::{count, write_release};
use crate::{
    cli::{Form, Import},
    failure::Failure,
    files,
    import::{Taken, ima_list, keylime, sbom, sums},
    sources::{self, Options},
};

/// Lines about what was left out that are printed.
const MAX_TOLD: usize = 100;

pub(crate) fn run(arguments: &Import) -> Result<(), Failure> {
    let mut content = Content::default();
    let mut all = Taken::default();
    for path in &arguments.files {
        let taken = match arguments.form {
            Form::Keylime => keylime::read(path)?,
            Form::Ima => ima_list::read(path)?,
            Form::Sbom => sbom::read(path)?,
            Form::Sha256sum => sums::read(path)?,
            Form::Deb => {
                let found = sources::measure_package(path, &Options::default())?;
                content.images.extend(found.images);
                Taken { executables: found.executables, left_out: Vec::new() }
            }
        };
        if taken.executables.is_empty() {
            let why =
                taken.left_out.first().map_or_else(|| "it lists none".to_owned(), |left| format!("left out: {left}"));
            return Err(Failure::input(path, format_args!("no file with a SHA-256 digest in it; {why}")));
        }
        all.extend(taken);
    }
    content.executables = all.executables;
    let release = write_release(&arguments.of, content)?;
    let (product, name) = (release.product(), release.name());
    let executables = count(release.executables().len(), "executable", "executables");
    let mut out = format!("{product} {name}, sequence {}: {executables}; not signed yet\n", release.sequence());
    if !all.left_out.is_empty() {
        out.push_str("Left out:\n");
    }
    all.left_out.iter().take(MAX_TOLD).for_each(|left| out.push_str(&format!("  {left}\n")));
    if all.left_out.len() > MAX_TOLD {
        out.push_str(&format!("  and {} more\n", all.left_out.len() - MAX_TOLD));
    }
    files::print(&out)
}
