//! What part of a file a client asks for (RFC 9110, 14): firmware and resumed downloads ask for pieces. One piece at a time is given; whoever
//! asks for several is given the whole, which the standard allows.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

/// A part of a file, both ends included; or all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The file.
    Whole,
    /// From the first byte to the last.
    Bytes(u64, u64),
    /// Nothing of the file is there.
    OutOfRange,
}

/// What a request for a file of `len` bytes asks for. What cannot be read is looked over, as if it were not there.
pub(super) fn wanted(headers: &HeaderMap, len: u64) -> Part {
    let Some(range) = headers.get(header::RANGE).and_then(|value| value.to_str().ok()) else {
        return Part::Whole;
    };
    let Some((first, last)) = range
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
    else {
        return Part::Whole;
    };
    match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), _) if first >= len => Part::OutOfRange,
        (Ok(first), Ok(last)) if last >= first => Part::Bytes(first, last.min(len - 1)),
        (Ok(first), Err(_)) if last.trim().is_empty() => Part::Bytes(first, len - 1),
        // The last so many bytes.
        (Err(_), Ok(count)) if first.trim().is_empty() => match count {
            0 => Part::OutOfRange,
            count if len > 0 => Part::Bytes(len - count.min(len), len - 1),
            _ => Part::OutOfRange,
        },
        _ => Part::Whole,
    }
}

impl Part {
    /// Where it begins and how many bytes it has, of a file of `len` bytes.
    pub(super) fn extent(self, len: u64) -> (u64, u64) {
        match self {
            Self::Whole => (0, len),
            Self::Bytes(first, last) => (first, last - first + 1),
            Self::OutOfRange => (0, 0),
        }
    }

    /// The answer, with `body` for what [`Part::extent`] says.
    pub(super) fn response(self, len: u64, body: Body) -> Response {
        let status = match self {
            Self::Whole => StatusCode::OK,
            Self::Bytes(..) => StatusCode::PARTIAL_CONTENT,
            Self::OutOfRange => StatusCode::RANGE_NOT_SATISFIABLE,
        };
        let mut answer = (status, body).into_response();
        let headers = answer.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::CONTENT_LENGTH, self.extent(len).1.into());
        let range = match self {
            Self::Whole => None,
            Self::Bytes(first, last) => Some(format!("bytes {first}-{last}/{len}")),
            Self::OutOfRange => Some(format!("bytes */{len}")),
        };
        if let Some(range) = range.and_then(|range| range.parse().ok()) {
            headers.insert(header::CONTENT_RANGE, range);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_what_the_standard_says() {
        let asks = |range: &str, len| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, range.parse().unwrap());
            wanted(&headers, len)
        };
        for (range, part) in [
            ("bytes=0-99", Part::Bytes(0, 99)),
            ("bytes=10-", Part::Bytes(10, 999)),
            ("bytes=-10", Part::Bytes(990, 999)),
            ("bytes=-5000", Part::Bytes(0, 999)),
            ("bytes=990-5000", Part::Bytes(990, 999)),
            ("bytes=999-999", Part::Bytes(999, 999)),
            ("bytes=1000-", Part::OutOfRange),
            ("bytes=-0", Part::OutOfRange),
            ("bytes=9-3", Part::Whole),
            ("bytes=0-1,5-6", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=18446744073709551616-", Part::Whole),
            ("lines=1-2", Part::Whole),
            ("bytes", Part::Whole),
        ] {
            assert_eq!(asks(range, 1000), part, "{range}");
        }
        assert_eq!(asks("bytes=0-", 0), Part::OutOfRange);
        assert_eq!(asks("bytes=-3", 0), Part::OutOfRange);
        assert_eq!(wanted(&HeaderMap::new(), 7), Part::Whole);
    }
}
