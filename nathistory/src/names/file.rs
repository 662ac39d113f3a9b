//! Facts that have ended, as a Parquet file.

use std::collections::BTreeMap;
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::record::{Field, Row};
use parquet::schema::parser::parse_message_type;

use crate::disk::Disk;
use crate::error::Error;
use crate::names::fact::NameFact;
use crate::text::{compact_time, parse_compact_time};
use crate::time::Millis;

const PREFIX: &str = "names-";
const EXTENSION: &str = ".parquet";
/// The name of a file that is not finished.
pub(super) const UNFINISHED: &str = "names.tmp";

/// Texts first, then moments in milliseconds since 1970-01-01T00:00:00Z.
const SCHEMA: &str = "message names {
    required binary net (string);
    required binary source (string);
    required binary place (string);
    optional binary name (string);
    optional binary mac (string);
    optional binary subscriber (string);
    optional binary client_id (string);
    optional binary labels (string);
    required int64 key;
    required int64 began_after (timestamp(millis, true));
    required int64 began (timestamp(millis, true));
    required int64 learnt (timestamp(millis, true));
    optional int64 ended_after (timestamp(millis, true));
    optional int64 ended (timestamp(millis, true));
    optional int64 until (timestamp(millis, true));
}";

/// A file of facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FactFile {
    /// The number of the log of which it was made.
    pub(super) number: u64,
    /// The moment at which the last of its facts ended.
    pub(super) to: Millis,
    pub(super) name: String,
}

impl FactFile {
    fn new(number: u64, to: Millis) -> Self {
        let name = format!("{PREFIX}{number:010}_{}{EXTENSION}", compact_time(to));
        Self { number, to, name }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let (number, to) = name.strip_prefix(PREFIX)?.strip_suffix(EXTENSION)?.split_once('_')?;
        let file = Self::new(number.parse().ok()?, parse_compact_time(to)?);
        (file.name == name).then_some(file)
    }
}

/// Writes a file: durable, with its name, or not at all.
pub(super) fn write(disk: &dyn Disk, number: u64, facts: &mut [NameFact], to: Millis) -> Result<(), Error> {
    let failed = |error| Error::io(format!("writing {}/{UNFINISHED}", disk.name()), error);
    facts.sort_by(|a, b| (&a.net, a.began, a.key).cmp(&(&b.net, b.began, b.key)));
    let bytes = encode(facts).map_err(|error| failed(std::io::Error::other(error)))?;
    let _ = disk.remove(UNFINISHED);
    let mut file = disk.create(UNFINISHED).map_err(failed)?;
    file.write_all(&bytes).and_then(|()| file.sync()).map_err(failed)?;
    let name = FactFile::new(number, to).name;
    disk.rename(UNFINISHED, &name).and_then(|()| disk.sync_names()).map_err(failed)
}

fn encode(facts: &[NameFact]) -> Result<Vec<u8>, ParquetError> {
    let properties = WriterProperties::builder()
        .set_created_by(concat!("nathistory ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?));
    let mut bytes = Vec::new();
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties.build()))?;
    let mut group = writer.next_row_group()?;
    let labels: Vec<Option<String>> = facts
        .iter()
        .map(|fact| (!fact.labels.is_empty()).then(|| serde_json::to_string(&fact.labels).ok()).flatten())
        .collect();
    type Text = fn(&NameFact) -> Option<&str>;
    let texts: [Text; 7] = [
        |fact| Some(&fact.net),
        |fact| Some(&fact.source),
        |fact| Some(&fact.place),
        |fact| fact.name.as_deref(),
        |fact| fact.mac.as_deref(),
        |fact| fact.subscriber.as_deref(),
        |fact| fact.client_id.as_deref(),
    ];
    for (at, text) in texts.into_iter().enumerate() {
        write_texts(&mut group, facts.iter().map(text), at >= 3)?;
    }
    write_texts(&mut group, labels.iter().map(Option::as_deref), true)?;
    type Number = fn(&NameFact) -> Option<i64>;
    let numbers: [Number; 7] = [
        |fact| Some(fact.key as i64),
        |fact| Some(fact.began_after),
        |fact| Some(fact.began),
        |fact| Some(fact.learnt),
        |fact| fact.ended_after,
        |fact| fact.ended,
        |fact| fact.until,
    ];
    for (at, number) in numbers.into_iter().enumerate() {
        let Some(mut column) = group.next_column()? else { break };
        let values: Vec<i64> = facts.iter().filter_map(number).collect();
        let levels = levels(facts.iter().map(|fact| number(fact).is_some()), at >= 4);
        column.typed::<Int64Type>().write_batch(&values, levels.as_deref(), None)?;
        column.close()?;
    }
    group.close()?;
    writer.close()?;
    Ok(bytes)
}

type Group<'a, 'b> = parquet::file::writer::SerializedRowGroupWriter<'a, &'b mut Vec<u8>>;

fn write_texts<'a>(
    group: &mut Group<'_, '_>,
    texts: impl Iterator<Item = Option<&'a str>> + Clone,
    is_optional: bool,
) -> Result<(), ParquetError> {
    let Some(mut column) = group.next_column()? else { return Ok(()) };
    let values: Vec<ByteArray> = texts.clone().flatten().map(ByteArray::from).collect();
    let levels = levels(texts.map(|text| text.is_some()), is_optional);
    column.typed::<ByteArrayType>().write_batch(&values, levels.as_deref(), None)?;
    column.close()
}

/// Which values are there, in a column in which some can be missing.
fn levels(present: impl Iterator<Item = bool>, is_optional: bool) -> Option<Vec<i16>> {
    is_optional.then(|| present.map(i16::from).collect())
}

/// Reads a file.
pub(super) fn read(disk: &dyn Disk, file: &FactFile) -> Result<Vec<NameFact>, Error> {
    let FactFile { name, .. } = file;
    let failed = |error| Error::io(format!("reading {}/{name}", disk.name()), error);
    let reading = disk.open(name).map_err(failed)?;
    let length = usize::try_from(reading.length()).map_err(|_| Error::damaged(name, "it is too long"))?;
    let mut bytes = vec![0; length];
    reading.read_at(&mut bytes, 0).map_err(failed)?;
    let damaged = |error: ParquetError| Error::damaged(name, error.to_string());
    let reader = SerializedFileReader::new(bytes::Bytes::from(bytes)).map_err(damaged)?;
    let rows = reader.get_row_iter(None).map_err(damaged)?;
    rows.map(|row| {
        row.map_err(damaged)
            .and_then(|row| fact(&row).ok_or_else(|| Error::damaged(name, "it has other columns")))
    })
    .collect()
}

fn fact(row: &Row) -> Option<NameFact> {
    let mut fact = NameFact::default();
    for (column, field) in row.get_column_iter() {
        let text = || match field {
            Field::Str(text) => Some(text.clone()),
            _ => None,
        };
        let number = || match field {
            Field::Long(number) | Field::TimestampMillis(number) => Some(*number),
            _ => None,
        };
        match column.as_str() {
            "net" => fact.net = text()?,
            "source" => fact.source = text()?,
            "place" => fact.place = text()?,
            "name" => fact.name = text(),
            "mac" => fact.mac = text(),
            "subscriber" => fact.subscriber = text(),
            "client_id" => fact.client_id = text(),
            "labels" => {
                let labels = text().map(|text| serde_json::from_str::<BTreeMap<String, String>>(&text));
                fact.labels = labels.transpose().ok()?.unwrap_or_default();
            }
            "key" => fact.key = number()? as u64,
            "began_after" => fact.began_after = number()?,
            "began" => fact.began = number()?,
            "learnt" => fact.learnt = number()?,
            "ended_after" => fact.ended_after = number(),
            "ended" => fact.ended = number(),
            "until" => fact.until = number(),
            // A later version can have more.
            _ => {}
        }
    }
    Some(fact)
}
