//! Checks that many messages share: names, counts, times, identifiers.

use std::time::Duration;

use prost::Message;

use crate::{
    domain::{Error, NamespaceId, Uid, id::check_segment, limits::MAX_ITEMS_PER_CALL},
    proto::v1 as pb,
};

/// The longest `google.protobuf.Duration`: about 10,000 years.
const MAX_SECONDS: i64 = 315_576_000_000;

/// One segment of a name, a queue, a task type or a worker id.
pub(crate) fn segment(field: &'static str, text: String) -> Result<String, Error> {
    check_segment(field, &text).map(|()| text)
}

/// Items of a call: at least one where `least` says so, at most 1000.
pub(crate) fn items(field: &'static str, count: usize, least: usize) -> Result<(), Error> {
    items_up_to(field, count, least, MAX_ITEMS_PER_CALL)
}

/// Items of a call with a limit of its own.
pub(crate) fn items_up_to(
    field: &'static str,
    count: usize,
    least: usize,
    most: usize,
) -> Result<(), Error> {
    if (least..=most).contains(&count) {
        return Ok(());
    }
    Err(Error::field(
        field,
        format!("must hold {least} to {most} items, got {count}: split the call"),
    )
    .with("limit", most))
}

/// A name that belongs to the namespace of the call.
pub(crate) fn within(
    field: &'static str,
    called: &NamespaceId,
    named: &NamespaceId,
) -> Result<(), Error> {
    if called == named {
        return Ok(());
    }
    Err(Error::field(
        field,
        format!("is of namespace {named}, but one call touches one namespace, here {called}"),
    ))
}

/// A UUID that says who somebody is; the nil UUID says nothing.
pub(crate) fn uuid(field: &'static str, text: &str) -> Result<Uid, Error> {
    let uid = Uid::parse(field, text)?;
    if uid == Uid::default() {
        return Err(Error::field(field, "must not be the nil UUID"));
    }
    Ok(uid)
}

/// The same, where the field may be left out.
pub(crate) fn optional_uuid(field: &'static str, text: &str) -> Result<Option<Uid>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    uuid(field, text).map(Some)
}

/// Who a worker is.
pub(crate) fn instance(worker_id: String, instance_uid: &str) -> Result<(String, Uid), Error> {
    Ok((
        segment("worker_id", worker_id)?,
        uuid("instance_uid", instance_uid)?,
    ))
}

/// Microseconds of a duration; none where it is absent or zero, which mean the same. What is above
/// zero stays above zero.
pub(crate) fn micros(
    field: &'static str,
    duration: Option<&prost_types::Duration>,
) -> Result<Option<u64>, Error> {
    let Some(prost_types::Duration { seconds, nanos }) = duration.copied() else {
        return Ok(None);
    };
    let seconds_fit = (0..=MAX_SECONDS).contains(&seconds);
    if !seconds_fit || !(0..1_000_000_000).contains(&nanos) {
        return Err(Error::field(
            field,
            format!(
                "must be 0 to {MAX_SECONDS} s with nanos below 10^9, got {seconds} s and {nanos} ns"
            ),
        ));
    }
    let micros =
        seconds.unsigned_abs() * 1_000_000 + u64::from(nanos.unsigned_abs()).div_ceil(1_000);
    Ok(Some(micros).filter(|micros| *micros > 0))
}

/// A duration that is clamped, not refused: negative is zero.
pub(crate) fn clamped(duration: Option<&prost_types::Duration>) -> Option<Duration> {
    duration.map(|duration| Duration::try_from(*duration).unwrap_or_default())
}

/// As the wire has it.
pub(crate) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

/// Microseconds since the Unix epoch, within what a timestamp may say (the years 1 to 9999).
pub(crate) fn timestamp_in(
    field: &'static str,
    time: &prost_types::Timestamp,
) -> Result<i64, Error> {
    let seconds = (-62_135_596_800..=253_402_300_799).contains(&time.seconds);
    if !seconds || !(0..1_000_000_000).contains(&time.nanos) {
        return Err(Error::field(
            field,
            format!(
                "must lie within the years 1 to 9999 with nanos below 10^9, got {} s and {} ns",
                time.seconds, time.nanos
            ),
        ));
    }
    Ok(time.seconds * 1_000_000 + i64::from(time.nanos / 1_000))
}

/// The years 1 to 9999, which are all that protobuf's timestamps have.
const MIN_TIME_US: i64 = -62_135_596_800_000_000;
const MAX_TIME_US: i64 = 253_402_300_799_999_999;

/// A time as the wire has it.
pub(crate) fn timestamp(micros: i64) -> prost_types::Timestamp {
    // A retention of ten thousand years leads out of what a timestamp may be.
    let micros = micros.clamp(MIN_TIME_US, MAX_TIME_US);
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        // Below 10^9: it fits.
        nanos: (micros.rem_euclid(1_000_000) * 1_000) as i32,
    }
}

/// The same, where 0 stands for "not yet".
pub(crate) fn set_timestamp(micros: i64) -> Option<prost_types::Timestamp> {
    (micros != 0).then(|| timestamp(micros))
}

/// What operations weigh, encoded.
pub(crate) fn ops_bytes(updates: &[pb::KeyUpdate]) -> usize {
    updates.iter().map(Message::encoded_len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proto(seconds: i64, nanos: i32) -> prost_types::Duration {
        prost_types::Duration { seconds, nanos }
    }

    #[test]
    fn durations_keep_to_microseconds_and_zero_means_absent() {
        assert_eq!(micros("wait", None).unwrap(), None);
        assert_eq!(micros("wait", Some(&proto(0, 0))).unwrap(), None);
        assert_eq!(micros("wait", Some(&proto(0, 1))).unwrap(), Some(1));
        assert_eq!(
            micros("wait", Some(&proto(2, 500_000_000))).unwrap(),
            Some(2_500_000)
        );
        for wrong in [
            proto(-1, 0),
            proto(0, -1),
            proto(0, 1_000_000_000),
            proto(i64::MAX, 0),
        ] {
            assert!(micros("wait", Some(&wrong)).is_err(), "{wrong:?}");
        }
        assert_eq!(clamped(Some(&proto(-3, 0))), Some(Duration::ZERO));
    }

    #[test]
    fn times_before_the_epoch_survive() {
        for micros in [0, 1, -1, 1_700_000_000_123_456, -62_135_596_800_000_000] {
            assert_eq!(timestamp_in("time", &timestamp(micros)).unwrap(), micros);
        }
        let year_10_000 = prost_types::Timestamp {
            seconds: 253_402_300_800,
            nanos: 0,
        };
        assert!(timestamp_in("time", &year_10_000).is_err());
    }
}
