//! Columns of the table of backends: as wide as their content, and the least important ones left out where the
//! terminal is narrow.

/// Number of columns.
pub(super) const COLUMNS: usize = 9;

/// The heads of the columns, from left to right.
pub(super) const HEADS: [&str; COLUMNS] = [
    "BACKEND", "SERVICE", "STATE", "HEALTH", "ACTIVE", "NEW/S", "SHARE", "TOTAL", "PATH",
];

/// Columns in the order in which they are left out. The backend stays.
const LEAST_FIRST: [usize; COLUMNS - 1] = [8, 7, 6, 1, 5, 4, 3, 2];

/// Cells of one backend.
pub(super) type Cells = [String; COLUMNS];

/// The columns that fit into `width` with one space between them, each with its width.
pub(super) fn fit(rows: &[Cells], width: usize) -> Vec<(usize, usize)> {
    let widest = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(HEADS[column].len())
    };
    let mut columns: Vec<(usize, usize)> = (0..COLUMNS).map(|nth| (nth, widest(nth))).collect();
    for least in LEAST_FIRST {
        let taken: usize = columns.iter().map(|(_, width)| width + 1).sum();
        if taken <= width + 1 {
            break;
        }
        columns.retain(|(nth, _)| *nth != least);
    }
    if let [(_, only)] = columns.as_mut_slice() {
        *only = (*only).min(width);
    }
    columns
}

/// The text in at most `width` characters. The end stays, which of an address is the port.
pub(super) fn shortened(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let end = text.chars().skip(length + 1 - width.max(1));
    std::iter::once('…').chain(end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(backend: &str) -> Cells {
        let mut cells = Cells::default();
        backend.clone_into(&mut cells[0]);
        cells
    }

    fn heads(rows: &[Cells], width: usize) -> String {
        let heads = fit(rows, width).into_iter().map(|(nth, _)| HEADS[nth]);
        heads.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn least_important_columns_go_first() {
        let rows = [row("127.0.0.1:5000"), row("[2001:db8::1]:5000")];
        let all = "BACKEND SERVICE STATE HEALTH ACTIVE NEW/S SHARE TOTAL PATH";
        // 18 for the backend, and the heads of the others.
        assert_eq!(heads(&rows, 69), all);
        assert_eq!(heads(&rows, 68), all.strip_suffix(" PATH").unwrap());
        assert_eq!(heads(&rows, 31), "BACKEND STATE HEALTH");
        assert_eq!(heads(&rows, 12), "BACKEND");
        assert_eq!(fit(&rows, 12), [(0, 12)]);
    }

    #[test]
    fn shortened_address_keeps_its_port() {
        assert_eq!(shortened("127.0.0.1:5000", 14), "127.0.0.1:5000");
        assert_eq!(shortened("127.0.0.1:5000", 8), "….1:5000");
        assert_eq!(shortened("127.0.0.1:5000", 0), "…");
    }
}
