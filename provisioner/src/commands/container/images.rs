//! `berth images`.

use super::across::{Across, Bound};
use super::{human, names};
use crate::connect::{self, Engine, failed};
use crate::context::Context;
use crate::error::CliError;
use crate::ui::{self, Fields, Output, Table};
use serde::Deserialize;
use serde_json::json;
use std::process::ExitCode;

/// List images
#[derive(Debug, clap::Args)]
pub(crate) struct ImagesArgs {
    /// Those without a name too
    #[arg(short, long)]
    all: bool,
    /// IDs only
    #[arg(short, long)]
    quiet: bool,
    /// Nothing cut off
    #[arg(long)]
    no_trunc: bool,
    /// Digests too
    #[arg(long)]
    digests: bool,
    /// How to print them: table, json (an object per line), or a template such as '{{.Repository}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Output,
    #[command(flatten)]
    across: Across,
    /// Only images of this repository
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Image {
    id: String,
    repo_tags: Option<Vec<String>>,
    repo_digests: Option<Vec<String>>,
    created: i64,
    size: i64,
}

/// A line of the list: an image under one of its names.
#[derive(Debug, PartialEq, Eq)]
struct Row<'a> {
    repository: &'a str,
    tag: &'a str,
    digest: &'a str,
}

/// The fields of templates.
const FIELDS: [&str; 7] = ["Machine", "ID", "Repository", "Tag", "Digest", "CreatedSince", "Size"];

const NONE: &str = "<none>";

pub(crate) fn run(args: ImagesArgs, context: &Context) -> Result<ExitCode, CliError> {
    context.block_on(async {
        if args.across.several() {
            let answers =
                args.across.gather(context, Bound::Answer, async |engine| args.ask(engine).await).await?;
            let of = |(machine, images): &(String, Vec<Image>)| args.rows(Some(machine), images);
            args.print(&answers.answers.iter().flat_map(of).collect::<Vec<_>>())?;
            return answers.ended().map(|()| ExitCode::SUCCESS);
        }
        let asked = async { args.ask(&connect::selected(context).await?.engine).await };
        args.print(&args.rows(None, &args.across.in_time(asked).await?))?;
        Ok(ExitCode::SUCCESS)
    })
}

impl ImagesArgs {
    async fn ask(&self, engine: &Engine) -> Result<Vec<Image>, CliError> {
        let mut path = format!("/images/json?all={}&digests={}", u8::from(self.all), u8::from(self.digests));
        if let Some(reference) = &self.reference {
            let filters = json!({ "reference": [reference] }).to_string();
            path.push_str(&format!("&filters={}", names::query(&filters)));
        }
        engine.get(&path).await.map_err(|e| failed("cannot list images", e))
    }

    /// A line for each name of each image; machines are told where there are several.
    fn rows(&self, machine: Option<&String>, images: &[Image]) -> Vec<Fields> {
        let mut rows = Vec::new();
        for (image, row) in
            images.iter().flat_map(|image| image.rows().into_iter().map(move |row| (image, row)))
        {
            let id = if self.no_trunc { &image.id } else { human::short_id(&image.id) };
            let values = [
                ("ID", id.to_owned()),
                ("Repository", row.repository.to_owned()),
                ("Tag", row.tag.to_owned()),
                ("Digest", row.digest.to_owned()),
                ("CreatedSince", human::ago(image.created)),
                ("Size", human::size(image.size)),
            ];
            let machine = machine.map(|machine| ("Machine", machine.clone()));
            let fields = machine.into_iter().chain(values);
            rows.push(fields.map(|(key, value)| (key.to_owned(), value.into())).collect());
        }
        rows
    }

    fn print(&self, rows: &[Fields]) -> Result<(), CliError> {
        let text =
            |row: &Fields, key: &str| row.get(key).and_then(|it| it.as_str()).unwrap_or_default().to_owned();
        if self.quiet {
            for row in rows {
                let (machine, id) = (text(row, "Machine"), text(row, "ID"));
                ui::stdout(&if machine.is_empty() { id } else { format!("{machine}: {id}") });
            }
            return Ok(());
        }
        let columns = [
            ("MACHINE", "Machine", self.across.several()),
            ("REPOSITORY", "Repository", true),
            ("TAG", "Tag", true),
            ("DIGEST", "Digest", self.digests),
            ("IMAGE ID", "ID", true),
            ("CREATED", "CreatedSince", true),
            ("SIZE", "Size", true),
        ];
        self.format.write(&FIELDS, rows, || {
            let shown = || columns.iter().filter(|(.., shown)| *shown);
            let mut table = Table::new(&shown().map(|(head, ..)| *head).collect::<Vec<_>>());
            rows.iter().for_each(|row| table.row(shown().map(|(_, key, _)| text(row, key)).collect()));
            table
        })
    }
}

impl Image {
    /// One for each name, and one for an image without.
    fn rows(&self) -> Vec<Row<'_>> {
        let named = |text: &&String| !text.starts_with(NONE);
        let digests: Vec<_> =
            self.repo_digests.iter().flatten().filter(named).filter_map(|d| d.split_once('@')).collect();
        let tags = self.repo_tags.iter().flatten().filter(named).map(|tag| {
            let (repository, tag) = names::split_reference(tag);
            let digest = digests.iter().find(|(of, _)| *of == repository).map_or(NONE, |(_, digest)| digest);
            Row { repository, tag: tag.unwrap_or(NONE), digest }
        });
        let mut rows: Vec<_> = tags.collect();
        if rows.is_empty() {
            rows.extend(digests.iter().map(|(repository, digest)| Row { repository, tag: NONE, digest }));
        }
        if rows.is_empty() {
            rows.push(Row { repository: NONE, tag: NONE, digest: NONE });
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_listed_under_each_of_its_names() {
        let image = |tags: &[&str], digests: &[&str]| Image {
            repo_tags: Some(tags.iter().map(|t| (*t).to_owned()).collect()),
            repo_digests: Some(digests.iter().map(|d| (*d).to_owned()).collect()),
            ..Image::default()
        };
        let two = image(&["a:1", "r.io:5000/b:2"], &["a@sha256:12"]);
        assert_eq!(two.rows()[0], Row { repository: "a", tag: "1", digest: "sha256:12" });
        assert_eq!(two.rows()[1], Row { repository: "r.io:5000/b", tag: "2", digest: NONE });
        assert_eq!(
            image(&[], &["a@sha256:12"]).rows(),
            [Row { repository: "a", tag: NONE, digest: "sha256:12" }]
        );
        assert_eq!(
            image(&["<none>:<none>"], &[]).rows(),
            [Row { repository: NONE, tag: NONE, digest: NONE }]
        );
    }
}
