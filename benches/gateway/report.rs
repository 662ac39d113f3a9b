//! Figures with their spread, as Markdown and as JSON.

use std::fmt::Write;
use std::path::PathBuf;
use std::{fs, io};

use serde_json::{Value, json};

use super::meter::percentile;

/// The target of a figure.
#[derive(Clone, Copy)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Target::AtMost(limit) => value <= limit,
            Target::AtLeast(limit) => value >= limit,
        }
    }
}

/// One figure, with one sample per round.
struct Figure {
    name: String,
    unit: &'static str,
    samples: Vec<f64>,
    target: Option<Target>,
}

impl Figure {
    fn median(&self) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        }
    }

    fn spread(&self) -> (f64, f64) {
        let mut sorted = self.samples.clone();
        (percentile(&mut sorted, 0.0), percentile(&mut sorted, 1.0))
    }

    fn is_met(&self) -> Option<bool> {
        self.target.map(|target| target.is_met(self.median()))
    }
}

/// One row of the table: the measured value, its peers and their ratio.
pub struct Row {
    number: &'static str,
    what: String,
    figures: Vec<Figure>,
    notes: Vec<String>,
}

impl Row {
    pub fn new(number: &'static str, what: impl Into<String>) -> Self {
        Self { number, what: what.into(), figures: Vec::new(), notes: Vec::new() }
    }

    /// Adds a figure.
    pub fn figure(mut self, name: impl Into<String>, unit: &'static str, samples: &[f64]) -> Self {
        self.figures.push(Figure { name: name.into(), unit, samples: samples.to_vec(), target: None });
        self
    }

    /// Adds a figure that has a target.
    pub fn target(
        mut self,
        name: impl Into<String>,
        unit: &'static str,
        samples: &[f64],
        target: Target,
    ) -> Self {
        let figure = Figure { name: name.into(), unit, samples: samples.to_vec(), target: Some(target) };
        self.figures.push(figure);
        self
    }

    /// Adds a note.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    fn markdown(&self) -> String {
        let mut text = String::new();
        for (at, figure) in self.figures.iter().enumerate() {
            let (number, what) = if at == 0 { (self.number, self.what.as_str()) } else { ("", "") };
            let (least, most) = figure.spread();
            let (target, met) = match figure.target {
                None => (String::new(), ""),
                Some(target) => {
                    let text = match target {
                        Target::AtMost(limit) => format!("at most {}", show(limit, figure.unit)),
                        Target::AtLeast(limit) => format!("at least {}", show(limit, figure.unit)),
                    };
                    (text, if figure.is_met() == Some(true) { "met" } else { "**missed**" })
                }
            };
            let _ = writeln!(
                text,
                "| {number} | {what} | {} | {} | {} – {} | {target} | {met} |",
                figure.name,
                show(figure.median(), figure.unit),
                show(least, ""),
                show(most, ""),
            );
        }
        text
    }

    fn json(&self) -> Value {
        let figures: Vec<Value> = self
            .figures
            .iter()
            .map(|figure| {
                let (least, most) = figure.spread();
                json!({
                    "name": figure.name,
                    "unit": figure.unit,
                    "median": figure.median(),
                    "min": least,
                    "max": most,
                    "samples": figure.samples,
                    "at_most": match figure.target { Some(Target::AtMost(limit)) => Some(limit), _ => None },
                    "at_least": match figure.target { Some(Target::AtLeast(limit)) => Some(limit), _ => None },
                    "met": figure.is_met(),
                })
            })
            .collect();
        json!({ "row": self.number, "what": self.what, "figures": figures, "notes": self.notes })
    }
}

/// Three significant digits, and all digits before the decimal point.
fn show(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let plain = format!("{value:.digits$}");
    let (integer, rest) =
        plain.split_once('.').map_or((plain.as_str(), ""), |(integer, rest)| (integer, rest));
    let mut grouped = String::new();
    for (at, digit) in integer.chars().enumerate() {
        if at > 0 && (integer.len() - at) % 3 == 0 && digit.is_ascii_digit() && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if !rest.is_empty() {
        grouped = format!("{grouped}.{rest}");
    }
    if unit.is_empty() { grouped } else { format!("{grouped} {unit}") }
}

/// The table of one run, written again after each row.
pub struct Report {
    machine: Value,
    quick: bool,
    begun: String,
    rows: Vec<Row>,
    failures: Vec<String>,
}

/// The columns, and their alignment.
const HEAD: &str = "\
| | what | | median | min – max | target | |
| --- | --- | --- | ---: | ---: | --- | --- |
";

impl Report {
    pub fn new(machine: Value, quick: bool) -> Self {
        let begun = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        Self { machine, quick, begun, rows: Vec::new(), failures: Vec::new() }
    }

    /// Adds rows, prints them, and writes the files.
    pub fn add(&mut self, rows: Vec<Row>) {
        for row in rows {
            print!("{}", row.markdown());
            row.notes.iter().for_each(|note| println!("  {}: {note}", row.number));
            self.rows.push(row);
        }
        self.write();
    }

    /// Records that rows could not be measured.
    pub fn fail(&mut self, why: String) {
        println!("{why}");
        self.failures.push(why);
        self.write();
    }

    /// Whether all chosen rows were measured.
    pub fn is_whole(&self) -> bool {
        self.failures.is_empty()
    }

    /// Figures that missed their target.
    pub fn missed(&self) -> Vec<String> {
        let figures = self.rows.iter().flat_map(|row| row.figures.iter().map(move |figure| (row, figure)));
        figures
            .filter(|(_, figure)| figure.is_met() == Some(false))
            .map(|(row, figure)| format!("row {}: {}", row.number, figure.name))
            .collect()
    }

    /// The directory of the files.
    pub fn directory() -> PathBuf {
        // Next to Cargo's directory for temporary files.
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench")
    }

    fn write(&self) {
        let directory = Self::directory();
        let written = fs::create_dir_all(&directory)
            .and_then(|()| fs::write(directory.join("figures.md"), self.markdown()))
            .and_then(|()| fs::write(directory.join("figures.json"), format!("{:#}\n", self.json())))
            .and_then(|()| give_to_owner(&directory));
        if let Err(error) = written {
            eprintln!("cannot write to {}: {error}", directory.display());
        }
    }

    fn markdown(&self) -> String {
        let text = |name: &str| match &self.machine[name] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let kind = if self.machine["virtual"] == true { "virtual machine" } else { "machine" };
        let quick = if self.quick { " Small numbers (QUICK): a rehearsal, not a measurement." } else { "" };
        let mut out = format!(
            "pynatconnd {} on {}, {} cores, {} MiB ({kind}), Linux {}, {}.{quick}\n\n{HEAD}",
            env!("CARGO_PKG_VERSION"),
            text("cpu"),
            text("cores"),
            text("memory_mib"),
            text("kernel"),
            self.begun,
        );
        self.rows.iter().for_each(|row| out += &row.markdown());
        let notes = self.rows.iter().flat_map(|row| row.notes.iter().map(move |note| (row.number, note)));
        let notes: Vec<String> = notes.map(|(number, note)| format!("- {number}: {note}\n")).collect();
        if !notes.is_empty() {
            out += &format!("\n{}", notes.concat());
        }
        self.failures.iter().for_each(|failure| out += &format!("\nNot measured: {failure}\n"));
        out
    }

    fn json(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "begun": self.begun,
            "quick": self.quick,
            "machine": self.machine,
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
            "failures": self.failures,
        })
    }
}

/// Root has written the files, but the build directory belongs to the user.
fn give_to_owner(directory: &std::path::Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, chown};
    let owner = fs::metadata(directory.parent().unwrap_or(directory))?;
    chown(directory, Some(owner.uid()), Some(owner.gid()))?;
    for file in fs::read_dir(directory)? {
        chown(file?.path(), Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}

/// The ratio of `ours` to `theirs`, round by round.
pub fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect()
}
