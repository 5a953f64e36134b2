//! Lists that come in pages, and batches that a call takes only so many of.

use std::collections::VecDeque;

use futures_util::{Stream, stream};
use prost::Message;

use super::error::Error;

/// Items that one call of a list asks for.
pub(super) const PAGE: i32 = 500;
/// Below the 4 MiB that a call may weigh.
const MAX_BATCH_BYTES: usize = 3 << 20;

/// The items of all pages, page after page as they are asked for. `read` takes a page's token and
/// gives its items and the next one's token, which is empty after the last.
pub(super) fn all<T, F, R>(read: F) -> impl Stream<Item = Result<T, Error>> + Send
where
    T: Send,
    F: Fn(String) -> R + Send,
    R: Future<Output = Result<(Vec<T>, String), Error>> + Send,
{
    let pages = (read, Some(String::new()), VecDeque::new());
    stream::try_unfold(pages, |(read, mut token, mut items)| async move {
        loop {
            if let Some(item) = items.pop_front() {
                return Ok(Some((item, (read, token, items))));
            }
            let Some(next) = token else { return Ok(None) };
            let (page, next) = read(next).await?;
            items = VecDeque::from(page);
            token = Some(next).filter(|token| !token.is_empty());
        }
    })
}

/// Takes what one call can carry from the front: at most `most`, and not too heavy. One that is too
/// heavy by itself goes alone, for the server to refuse.
pub(super) fn take_batch<M: Message>(waiting: &mut VecDeque<M>, most: usize) -> Vec<M> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while let Some(next) = waiting.front() {
        bytes += next.encoded_len() + 8;
        let full = batch.len() == most || bytes > MAX_BATCH_BYTES;
        if full && !batch.is_empty() {
            break;
        }
        batch.extend(waiting.pop_front());
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_at_its_number_or_its_weight_and_is_never_empty() {
        let weights = |batch: Vec<Vec<u8>>| -> Vec<usize> { batch.iter().map(Vec::len).collect() };
        let mut light = VecDeque::from([vec![7; 1], vec![7; 2], vec![7; 3]]);
        assert_eq!(weights(take_batch(&mut light, 2)), [1, 2]);
        assert_eq!(weights(take_batch(&mut light, 2)), [3]);
        assert!(take_batch(&mut light, 2).is_empty());
        let (large, huge) = (2 << 20, 4 << 20);
        let mut heavy = VecDeque::from([vec![7; large], vec![7; large], vec![7; huge]]);
        assert_eq!(weights(take_batch(&mut heavy, 9)), [large]);
        assert_eq!(weights(take_batch(&mut heavy, 9)), [large]);
        assert_eq!(weights(take_batch(&mut heavy, 9)), [huge]);
    }
}
