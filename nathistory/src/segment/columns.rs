//! The columns of a segment.

use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::TypePtr;

/// The columns, in the order of [`Column`].
const SCHEMA: &str = "message mappings {
    required binary nat_ip (STRING);
    optional int32 nat_port (INTEGER(16, false));
    required int32 protocol (INTEGER(8, false));
    required int64 opened (TIMESTAMP(MILLIS, true));
    optional int64 duration_ms (INTEGER(64, true));
    required binary inside (STRING);
    required binary src_ip (STRING);
    optional int32 src_port (INTEGER(16, false));
    optional binary dst_ip (STRING);
    optional int32 dst_port (INTEGER(16, false));
    optional binary server_ip (STRING);
    optional int32 server_port (INTEGER(16, false));
    optional binary source_nat_ip (STRING);
    optional int32 source_nat_port (INTEGER(16, false));
    required int32 zone (INTEGER(16, false));
    optional int32 reply_zone (INTEGER(16, false));
    optional int32 id (INTEGER(32, false));
    optional int32 mark (INTEGER(32, false));
    required binary nat (STRING);
    required binary opened_known (STRING);
    optional int64 opened_after (TIMESTAMP(MILLIS, true));
    optional binary closed_known (STRING);
    optional int64 closed_after (TIMESTAMP(MILLIS, true));
    optional int64 packets_original (INTEGER(64, false));
    optional int64 packets_reply (INTEGER(64, false));
    optional int64 bytes_original (INTEGER(64, false));
    optional int64 bytes_reply (INTEGER(64, false));
}";

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// The address of the public end.
    NatIp,
    /// The port of the public end; null if the protocol has none.
    NatPort,
    /// The number of the IP protocol.
    Protocol,
    /// When the mapping opened; of a range, its end.
    Opened,
    /// From `opened` to the moment at which it closed; null while it is open.
    Duration,
    /// Which host is behind the public end: `src` or `server`.
    Inside,
    /// The host that began the connection.
    SrcIp,
    SrcPort,
    /// What the connection was begun to; null if destinations are not recorded.
    DstIp,
    DstPort,
    /// The host that answers; null if it is `dst`.
    ServerIp,
    ServerPort,
    /// In a row whose `inside` is `server`: the public end of the source if that is translated too.
    SourceNatIp,
    SourceNatPort,
    Zone,
    /// The zone of the reply direction; null if it is `zone`.
    ReplyZone,
    /// The conntrack id; null, which is read as 0, is for those who may want to leave it out.
    Id,
    Mark,
    /// What is translated: `none`, `src`, `dst` or `src+dst`. It follows from the ends.
    Nat,
    OpenedKnown,
    /// The begin of the range in which it opened; null if that is no range.
    OpenedAfter,
    ClosedKnown,
    /// The begin of the range in which it closed; null if that is no range.
    ClosedAfter,
    PacketsOriginal,
    PacketsReply,
    BytesOriginal,
    BytesReply,
}

impl Column {
    /// All, in their order in the file.
    pub(super) const ALL: [Column; 27] = [
        Column::NatIp,
        Column::NatPort,
        Column::Protocol,
        Column::Opened,
        Column::Duration,
        Column::Inside,
        Column::SrcIp,
        Column::SrcPort,
        Column::DstIp,
        Column::DstPort,
        Column::ServerIp,
        Column::ServerPort,
        Column::SourceNatIp,
        Column::SourceNatPort,
        Column::Zone,
        Column::ReplyZone,
        Column::Id,
        Column::Mark,
        Column::Nat,
        Column::OpenedKnown,
        Column::OpenedAfter,
        Column::ClosedKnown,
        Column::ClosedAfter,
        Column::PacketsOriginal,
        Column::PacketsReply,
        Column::BytesOriginal,
        Column::BytesReply,
    ];

    /// Its name in the file.
    pub(super) fn name(self) -> &'static str {
        match self {
            Column::NatIp => "nat_ip",
            Column::NatPort => "nat_port",
            Column::Protocol => "protocol",
            Column::Opened => "opened",
            Column::Duration => "duration_ms",
            Column::Inside => "inside",
            Column::SrcIp => "src_ip",
            Column::SrcPort => "src_port",
            Column::DstIp => "dst_ip",
            Column::DstPort => "dst_port",
            Column::ServerIp => "server_ip",
            Column::ServerPort => "server_port",
            Column::SourceNatIp => "source_nat_ip",
            Column::SourceNatPort => "source_nat_port",
            Column::Zone => "zone",
            Column::ReplyZone => "reply_zone",
            Column::Id => "id",
            Column::Mark => "mark",
            Column::Nat => "nat",
            Column::OpenedKnown => "opened_known",
            Column::OpenedAfter => "opened_after",
            Column::ClosedKnown => "closed_known",
            Column::ClosedAfter => "closed_after",
            Column::PacketsOriginal => "packets_original",
            Column::PacketsReply => "packets_reply",
            Column::BytesOriginal => "bytes_original",
            Column::BytesReply => "bytes_reply",
        }
    }

    /// Whether the least and the greatest value of each page are recorded: those by which questions find pages.
    pub(super) fn is_indexed(self) -> bool {
        matches!(self, Column::NatIp | Column::NatPort)
    }
}

/// How a file is divided. The defaults are for large files; tests make small ones of many parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// The most rows of a row group.
    pub(super) group_rows: usize,
    /// The rows of a page.
    pub(super) page_rows: usize,
    /// The bytes of a block that has a checksum.
    pub(super) block_size: usize,
    /// The level of the compression, if there is one.
    pub(super) zstd_level: Option<i32>,
}

impl Layout {
    /// That of a file which is merged within a day: to compress it would take longer than to merge it.
    pub(super) fn passing() -> Self {
        Self { zstd_level: None, ..Self::default() }
    }
}

impl Default for Layout {
    fn default() -> Self {
        Self { group_rows: 1 << 19, page_rows: 1 << 13, block_size: 1 << 16, zstd_level: Some(1) }
    }
}

/// The schema of the file.
pub(super) fn schema() -> Result<TypePtr, ParquetError> {
    Ok(Arc::new(parse_message_type(SCHEMA)?))
}

/// What the file says about all columns.
pub(super) fn properties() -> WriterPropertiesPtr {
    let sorted =
        |column: Column| SortingColumn { column_idx: column as i32, descending: false, nulls_first: true };
    let sorting = [Column::NatIp, Column::NatPort, Column::Protocol, Column::Opened].map(sorted);
    let properties = WriterProperties::builder()
        .set_created_by(concat!("nathistory ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_sorting_columns(Some(sorting.to_vec()));
    Arc::new(properties.build())
}

#[cfg(test)]
mod tests {
    use parquet::schema::types::SchemaDescriptor;

    use super::*;

    #[test]
    fn the_schema_has_the_columns_in_their_order() {
        let schema = SchemaDescriptor::new(schema().unwrap());
        assert_eq!(schema.num_columns(), Column::ALL.len());
        for (index, column) in Column::ALL.into_iter().enumerate() {
            assert_eq!(schema.column(index).name(), column.name());
            assert_eq!(column as usize, index);
        }
    }
}
