//! Copies rows from the columns of one file into those of another. That takes a fraction of the time of making rows of
//! them: most columns have the same value in all rows, and a text is looked up once for each dictionary.

use std::net::IpAddr;

use parquet::data_type::DataType;
use parquet::errors::ParquetError;

use crate::segment::chunk::{Repeating, Translation, Value, Varying, WORDS, Word};
use crate::segment::collect::{Columns, INSIDE, KNOWN, NAT};
use crate::segment::decode::{Cursor, Decoder, lacks};
use crate::segment::encode::Integer;
use crate::segment::texts::Texts;

/// The places of the texts of an input's row group in the dictionaries of the output's.
#[derive(Default)]
pub(super) struct Translations {
    nat_ip: Translation,
    inside: Translation,
    src_ip: Translation,
    dst_ip: Translation,
    server_ip: Translation,
    source_nat_ip: Translation,
    nat: Translation,
    opened_known: Translation,
    closed_known: Translation,
}

/// What is known of a row that was copied, but for its id, which is left out.
pub(super) struct Copied {
    pub(super) id: Option<i32>,
    pub(super) is_open: bool,
    /// The earliest moment at which it can have opened.
    pub(super) earliest: i64,
}

impl Columns {
    /// Copies the next row of those that were read, but for its id.
    #[inline]
    pub(super) fn copy(
        &mut self,
        from: &mut Decoder,
        translations: &mut Translations,
    ) -> Result<Copied, ParquetError> {
        let opened = *from.opened.next().ok_or_else(|| lacks("opened"))?;
        let opened_after = from.opened_after.next().copied();
        let duration = from.duration.next().copied();
        let known = from.closed_known.next_place();
        if duration.is_some() != known.is_some() {
            return Err(lacks("duration_ms or closed_known"));
        }
        let Translations {
            nat_ip, inside, src_ip, dst_ip, server_ip, source_nat_ip, nat, opened_known, ..
        } = translations;
        required(&mut from.nat_ip, &mut self.nat_ip, nat_ip, "nat_ip", Texts::address)?;
        required(&mut from.inside, &mut self.inside, inside, "inside", |texts, place| {
            word(texts, place, INSIDE..NAT)
        })?;
        required(&mut from.src_ip, &mut self.src_ip, src_ip, "src_ip", Texts::address)?;
        optional(&mut from.dst_ip, &mut self.dst_ip, dst_ip)?;
        optional(&mut from.server_ip, &mut self.server_ip, server_ip)?;
        optional(&mut from.source_nat_ip, &mut self.source_nat_ip, source_nat_ip)?;
        required(&mut from.nat, &mut self.nat, nat, "nat", |texts, place| word(texts, place, NAT..KNOWN))?;
        let is_known = |texts: &mut Texts, place| word(texts, place, KNOWN..WORDS.len());
        required(&mut from.opened_known, &mut self.opened_known, opened_known, "opened_known", is_known)?;
        translated(
            &mut from.closed_known,
            known,
            &mut self.closed_known,
            &mut translations.closed_known,
            is_known,
        )?;
        self.opened.push(Some(opened));
        self.opened_after.push(opened_after);
        self.duration.push(duration);
        numbers(&mut from.closed_after, &mut self.closed_after);
        numbers(&mut from.nat_port, &mut self.nat_port);
        numbers(&mut from.src_port, &mut self.src_port);
        numbers(&mut from.source_nat_port, &mut self.source_nat_port);
        self.protocol.push(Some(*from.protocol.next().ok_or_else(|| lacks("protocol"))?));
        self.zone.push(Some(*from.zone.next().ok_or_else(|| lacks("zone"))?));
        self.dst_port.push(from.dst_port.next().copied());
        self.server_port.push(from.server_port.next().copied());
        self.reply_zone.push(from.reply_zone.next().copied());
        self.mark.push(from.mark.next().copied());
        for (from, to) in from.counters.iter_mut().zip(&mut self.counters) {
            numbers(from, to);
        }
        let id = from.id.next().copied();
        Ok(Copied { id, is_open: duration.is_none(), earliest: opened_after.unwrap_or(opened) })
    }
}

#[inline]
fn numbers<T: DataType>(from: &mut Cursor<T>, to: &mut Varying<T::T>)
where
    T::T: Value + Integer,
{
    to.push(from.next().copied());
}

#[inline]
fn required<V: Value>(
    from: &mut Texts,
    to: &mut Repeating<V>,
    translation: &mut Translation,
    name: &str,
    value: impl FnOnce(&mut Texts, u32) -> Result<V, ParquetError>,
) -> Result<(), ParquetError> {
    let place = from.next_place().ok_or_else(|| lacks(name))?;
    translated(from, Some(place), to, translation, value)
}

#[inline]
fn optional(
    from: &mut Texts,
    to: &mut Repeating<IpAddr>,
    translation: &mut Translation,
) -> Result<(), ParquetError> {
    let place = from.next_place();
    translated(from, place, to, translation, Texts::address)
}

#[inline]
fn translated<V: Value>(
    from: &mut Texts,
    place: Option<u32>,
    to: &mut Repeating<V>,
    translation: &mut Translation,
    value: impl FnOnce(&mut Texts, u32) -> Result<V, ParquetError>,
) -> Result<(), ParquetError> {
    match place {
        Some(place) => to.push_translated(place, translation, || value(from, place)),
        None => {
            to.push(None);
            Ok(())
        }
    }
}

/// The word of these that the text at a place is.
fn word(texts: &Texts, place: u32, among: std::ops::Range<usize>) -> Result<Word, ParquetError> {
    let text = texts.text(place).unwrap_or_default();
    among
        .map(Word)
        .find(|word| word.bound() == text)
        .ok_or_else(|| ParquetError::General(format!("{:?} is not expected", String::from_utf8_lossy(text))))
}
