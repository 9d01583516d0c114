//! What execs have printed, of all or of one, by the order in which it was read.
//!
//! The order is one number over all pieces of all execs. A piece takes its number while its journal is locked; so whoever
//! notes the next number first and looks into the journals after finds every piece below it, and an answer that ends there has
//! left nothing out.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::budget::Budget;
use super::record::Exec;
use super::replay::Piece;
use super::spill::Batch;
use crate::api::{LogEntry, Logs, OutputStream};
use crate::limits;

/// What is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Of this exec alone.
    pub exec_id: Option<String>,
    /// Of this stream alone.
    pub stream: Option<OutputStream>,
    /// From this place in the order on.
    pub offset: u64,
    /// At most so many entries, and never more than `limits::LOG_ENTRIES`; 0 is that limit.
    pub max_entries: usize,
}

/// Looks into the journals, and into their files where that is needed.
pub(super) async fn collect(budget: &Budget, execs: Vec<Arc<Exec>>, query: LogQuery) -> Logs {
    let over = query.exec_id.is_none() || execs.iter().all(|exec| exec.journal.is_over());
    let ceiling = budget.sequence();
    // What begins here is for a later answer, be it of an exec that is looked at after it.
    let (mut found, mut end) = (Vec::new(), ceiling);
    for exec in execs {
        // One more than fits shows that there is more.
        let wants = |piece: &Piece| query.wants(piece) && piece.sequence < end;
        let (spilled, pieces) = exec.journal.since(query.offset, query.limit() + 1, wants);
        let spilled = if spilled.is_empty() { Vec::new() } else { read_back(spilled, &query, end).await };
        let pieces = spilled.into_iter().chain(pieces);
        found.extend(pieces.into_iter().map(|piece| (piece, Arc::clone(&exec))));
        // The earliest are the answer, of however many execs: more is not held.
        found.sort_by_key(|(piece, _): &(Piece, Arc<Exec>)| piece.sequence);
        let fits = fitting(found.iter().map(|(piece, _)| piece.bytes.len()), query.limit());
        end = found.get(fits).map_or(end, |(piece, _)| piece.sequence);
        found.truncate(fits);
    }
    let all = end == ceiling;
    let next_offset = match found.last() {
        Some((last, _)) if !all => last.sequence + 1,
        _ => ceiling.max(query.offset),
    };
    let entry = |(piece, exec): &(Piece, Arc<Exec>)| LogEntry {
        timestamp: piece.timestamp,
        stream: piece.stream,
        data_b64: STANDARD.encode(&piece.bytes),
        exec_id: exec.id().to_owned(),
        service: None,
    };
    Logs { entries: found.iter().map(entry).collect(), next_offset, eof: all && over }
}

/// Pieces on disk, as many as an answer can hold.
async fn read_back(batches: Vec<Batch>, query: &LogQuery, end: u64) -> Vec<Piece> {
    let (query, limit) = (query.clone(), query.limit());
    let read = move || {
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        for batch in batches {
            if pieces.len() > limit || bytes > limits::LOG_BYTES {
                break;
            }
            let read = batch.read().unwrap_or_else(|error| {
                tracing::warn!(%error, "reading output back from disk failed");
                Vec::new()
            });
            for piece in read.into_iter().filter(|piece| query.wants(piece) && piece.sequence < end) {
                bytes += piece.bytes.len();
                pieces.push(piece);
            }
        }
        pieces
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

impl LogQuery {
    fn wants(&self, piece: &Piece) -> bool {
        piece.sequence >= self.offset && self.stream.is_none_or(|stream| stream == piece.stream)
    }

    fn limit(&self) -> usize {
        match self.max_entries {
            0 => limits::LOG_ENTRIES,
            max => max.min(limits::LOG_ENTRIES),
        }
    }
}

/// How many of these lengths are within the limits of an answer; one at least.
fn fitting(lengths: impl Iterator<Item = usize>, entries: usize) -> usize {
    let mut total = 0;
    lengths
        .take(entries)
        .take_while(|length| {
            let first = total == 0;
            total += length;
            first || total <= limits::LOG_BYTES
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_what_fits_and_one_entry_at_least() {
        assert_eq!(fitting([1, 2, 3].into_iter(), 2), 2);
        assert_eq!(fitting([limits::LOG_BYTES + 1, 1].into_iter(), 9), 1);
        assert_eq!(fitting([1, limits::LOG_BYTES - 1, 1].into_iter(), 9), 2);
        assert_eq!(fitting([].into_iter(), 9), 0);
    }
}
