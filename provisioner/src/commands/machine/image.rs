//! `berth image`: our own image, from which the qemu driver makes machines that are up in seconds.

use crate::context::Context;
use crate::error::{CliError, Doing as _, PRECHECK};
use crate::provision;
use crate::ui::{self, Format, Progress, Table};
use drivers::driver::{ErrorKind, Reporter as _};
use drivers::qemu::small::{self, SmallImage};
use std::path::PathBuf;
use std::process::ExitCode;

/// Images for machines on this computer.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ImageCommand {
    Build(BuildArgs),
    Ls(LsArgs),
}

/// Make berth's own machine image from Debian's packages
///
/// Machines of driver qemu are made from it where no other is named. It needs mmdebstrap, apt and mkfs.ext4, and no root;
/// Debian's mirror may be named by $DEBIAN_MIRROR.
#[derive(Debug, clap::Args)]
pub(crate) struct BuildArgs {
    /// Where it goes, with its parts beside it [default: where `berth create` looks for it]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// hostd to put into it [default: the one that berth installs]
    #[arg(long, value_name = "FILE")]
    hostd: Option<PathBuf>,
}

/// List the images that `berth image build` has made
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    /// How to show them
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Runs one.
pub(crate) fn run(command: &ImageCommand, context: &Context) -> Result<ExitCode, CliError> {
    match command {
        ImageCommand::Build(args) => build(args, context),
        ImageCommand::Ls(args) => ls(args, context),
    }
}

fn build(args: &BuildArgs, context: &Context) -> Result<ExitCode, CliError> {
    let out = match &args.output {
        Some(given) => std::path::absolute(given).doing(format!("cannot use {}", given.display()))?,
        None => small::default_path(&context.store.home().join("cache")),
    };
    let hostd = match &args.hostd {
        Some(given) => given.clone(),
        None => provision::of_this_host()?,
    };
    let progress = Progress::new(None);
    progress.step("Making the image");
    let built = context.block_on(async {
        small::build(&out, &hostd, &progress).await.map_err(|error| {
            let lacking = error.kind == ErrorKind::Precheck;
            let error = CliError::from(error);
            if lacking { error.code(PRECHECK) } else { error }
        })
    });
    progress.finish_if(built.is_ok());
    built?;
    ui::stdout(&out.display().to_string());
    Ok(ExitCode::SUCCESS)
}

fn ls(args: &LsArgs, context: &Context) -> Result<ExitCode, CliError> {
    let cache = context.store.home().join("cache");
    let found = small::list(&cache).doing(format!("cannot read {}", cache.display()))?;
    let (mut images, mut code) = (Vec::new(), ExitCode::SUCCESS);
    for image in found {
        match image {
            Ok(image) => images.push(image),
            Err(error) => {
                CliError::from(error).print();
                code = ExitCode::FAILURE;
            }
        }
    }
    match args.format {
        Format::Table => table(&images),
        Format::Json => {
            ui::json(&images.iter().map(json).collect::<Vec<_>>())?;
        }
    }
    Ok(code)
}

fn table(images: &[SmallImage]) {
    let mut table = Table::new(&["IMAGE", "VERSION", "LINUX", "HOSTD", "SIZE", "DEFAULT"]);
    for image in images {
        table.row(vec![
            image.path.display().to_string(),
            image.manifest.version.clone(),
            image.manifest.linux.clone(),
            image.manifest.hostd_sha256.chars().take(12).collect(),
            format!("{} MB", image.size.div_ceil(1_000_000)),
            if image.default { "yes".to_owned() } else { String::new() },
        ]);
    }
    table.print();
}

fn json(image: &SmallImage) -> serde_json::Value {
    serde_json::json!({
        "path": image.path, "version": image.manifest.version, "arch": image.manifest.arch, "linux": image.manifest.linux,
        "hostd_sha256": image.manifest.hostd_sha256, "size": image.size, "default": image.default,
    })
}
