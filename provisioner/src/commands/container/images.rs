//! `berth images`.

use super::{human, names};
use crate::connect::{self, failed};
use crate::context::Context;
use crate::error::CliError;
use crate::ui::{self, Format, Table};
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
    /// How to print them; json is an object per line
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
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

const NONE: &str = "<none>";

pub(crate) fn run(args: ImagesArgs, context: &Context) -> Result<ExitCode, CliError> {
    context.block_on(async {
        let connection = connect::selected(context).await?;
        let mut path = format!("/images/json?all={}&digests={}", u8::from(args.all), u8::from(args.digests));
        if let Some(reference) = &args.reference {
            let filters = json!({ "reference": [reference] }).to_string();
            path.push_str(&format!("&filters={}", names::query(&filters)));
        }
        let listed = connection.engine.get(&path).await;
        let images: Vec<Image> = listed.map_err(|e| failed("cannot list images", e))?;
        args.print(&images);
        Ok(ExitCode::SUCCESS)
    })
}

impl ImagesArgs {
    fn print(&self, images: &[Image]) {
        let id = |image: &Image| {
            if self.no_trunc { image.id.clone() } else { human::short_id(&image.id).to_owned() }
        };
        let heads: &[_] = if self.digests {
            &["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"]
        } else {
            &["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]
        };
        let mut table = Table::new(heads);
        for (image, row) in
            images.iter().flat_map(|image| image.rows().into_iter().map(move |row| (image, row)))
        {
            let (id, age, size) = (id(image), human::ago(image.created), human::size(image.size));
            match (self.quiet, self.format) {
                (true, _) => ui::stdout(&id),
                (false, Format::Json) => ui::stdout(
                    &json!({ "ID": id, "Repository": row.repository, "Tag": row.tag, "Digest": row.digest,
                        "CreatedSince": age, "Size": size })
                    .to_string(),
                ),
                (false, Format::Table) => {
                    let mut cells = vec![row.repository.to_owned(), row.tag.to_owned()];
                    cells.extend(self.digests.then(|| row.digest.to_owned()));
                    cells.extend([id, age, size]);
                    table.row(cells);
                }
            }
        }
        if !self.quiet && self.format == Format::Table {
            table.print();
        }
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
