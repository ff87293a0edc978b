//! How lists are written: a table, JSON, or what a template says.
//!
//! A template is Go's in its simplest form, as docker takes it: text, `{{.Field}}`, `{{json .Field}}`, `{{json .}}`, `\t`
//! and `\n`. With `table ` before it, it becomes the columns of a table with a head. Anything else is an error: a field
//! that is not known is not an empty text.

use crate::error::CliError;
use serde_json::{Map, Value};

/// A line of a list: its fields in order, under the names that templates use.
pub(crate) type Fields = Map<String, Value>;

/// What `--format` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Output {
    /// The usual columns.
    #[default]
    Table,
    /// For programs.
    Json,
    /// As the user wants it.
    Template(Template),
}

impl std::str::FromStr for Output {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            _ if !text.contains("{{") => {
                Err(format!("`{text}` is neither table, json, nor a template with {{{{.Field}}}}"))
            }
            _ => Template::parse(text).map(Self::Template),
        }
    }
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    table: bool,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(String),
    JsonField(String),
    Json,
}

impl Template {
    fn parse(text: &str) -> Result<Self, String> {
        let (table, text) = match text.strip_prefix("table ") {
            Some(columns) => (true, columns),
            None => (false, text),
        };
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (action, after) = after.split_once("}}").ok_or_else(|| format!("`{text}` lacks a `}}}}`"))?;
            parts.push(Part::Text(unescape(before)));
            parts.push(parse_action(action)?);
            rest = after;
        }
        parts.push(Part::Text(unescape(rest)));
        parts.retain(|part| *part != Part::Text(String::new()));
        Ok(Self { table, parts })
    }

    /// The lines under each other.
    fn render(&self, known: &[&str], rows: &[Fields]) -> Result<String, CliError> {
        for part in &self.parts {
            if let Part::Field(name) | Part::JsonField(name) = part
                && !known.contains(&name.as_str())
            {
                return Err(CliError::usage(format!("there is no field `{name}`"))
                    .hint(format!("the fields are {}", known.join(", "))));
            }
        }
        let mut lines = Vec::new();
        if self.table {
            lines.push(self.line(head, head, String::new));
        }
        for row in rows {
            let json = |name: &str| row.get(name).map_or("null".to_owned(), Value::to_string);
            let all = || Value::Object(row.clone()).to_string();
            lines.push(self.line(|name| plain(row.get(name)), json, all));
        }
        Ok(if self.table { aligned(&lines) } else { lines.join("\n") })
    }

    fn line(
        &self,
        field: impl Fn(&str) -> String,
        json: impl Fn(&str) -> String,
        all: impl Fn() -> String,
    ) -> String {
        let written = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Field(name) => field(name),
            Part::JsonField(name) => json(name),
            Part::Json => all(),
        });
        written.collect()
    }
}

fn parse_action(action: &str) -> Result<Part, String> {
    let words: Vec<&str> = action.split_whitespace().collect();
    let field = |word: &str| {
        let name = word.strip_prefix('.')?;
        let fits = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric());
        fits.then(|| name.to_owned())
    };
    let part = match words[..] {
        [word] => field(word).map(Part::Field),
        ["json", "."] => Some(Part::Json),
        ["json", word] => field(word).map(Part::JsonField),
        _ => None,
    };
    part.ok_or_else(|| {
        format!("`{{{{{action}}}}}` is neither {{{{.Field}}}}, {{{{json .Field}}}} nor {{{{json .}}}}")
    })
}

fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

/// The head of a field's column: `CreatedAt` becomes `CREATED AT`.
fn head(name: &str) -> String {
    let mut head = String::new();
    let mut before = ' ';
    for c in name.chars() {
        if c.is_ascii_uppercase() && before.is_ascii_lowercase() {
            head.push(' ');
        }
        head.push(c.to_ascii_uppercase());
        before = c;
    }
    head
}

fn plain(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Cells stand between tabs.
fn aligned(lines: &[String]) -> String {
    let rows: Vec<Vec<String>> =
        lines.iter().map(|line| line.split('\t').map(str::to_owned).collect()).collect();
    super::table::render(&rows)
}

impl Output {
    /// Lists `rows`, which have the fields `known`: by a template, as a JSON object per line, or as `table`.
    pub(crate) fn write(
        &self,
        known: &[&str],
        rows: &[Fields],
        table: impl FnOnce() -> super::Table,
    ) -> Result<(), CliError> {
        match self {
            Self::Table => table().print(),
            Self::Json => rows.iter().for_each(|row| super::stdout(&Value::Object(row.clone()).to_string())),
            Self::Template(template) => super::stdout(&template.render(known, rows)?),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(format: &str) -> Result<String, String> {
        let row = |name: &str, state: &str| {
            let row = serde_json::json!({ "Name": name, "CreatedAt": state, "Days": 3, "Nothing": null });
            row.as_object().unwrap().clone()
        };
        let Output::Template(template) = format.parse::<Output>()? else { return Err("no template".into()) };
        template
            .render(&["Name", "CreatedAt", "Days", "Nothing"], &[row("a", "now"), row("bcd", "then")])
            .map_err(|error| error.to_string())
    }

    #[test]
    fn templates_are_text_and_fields() {
        for (format, text) in [
            ("{{.Name}}", "a\nbcd"),
            ("{{ .Name }}: {{.Days}}{{.Nothing}}", "a: 3\nbcd: 3"),
            ("{{.Name}}\\t{{json .CreatedAt}}", "a\t\"now\"\nbcd\t\"then\""),
            ("table {{.Name}}\\t{{.CreatedAt}}", "NAME   CREATED AT\na      now\nbcd    then\n"),
        ] {
            assert_eq!(rendered(format).as_deref(), Ok(text), "{format}");
        }
        assert!(rendered("{{json .}}").unwrap().starts_with('{'));
    }

    #[test]
    fn a_template_that_is_not_understood_is_an_error() {
        for wrong in
            ["{{.Name", "{{Name}}", "{{range .}}", "{{.}}", "{{.Name.First}}", "{{}}", "name", "{{json}}"]
        {
            assert!(wrong.parse::<Output>().is_err(), "{wrong}");
        }
        assert_eq!(rendered("{{.Colour}}").unwrap_err(), "there is no field `Colour`");
    }
}
