//! Storage for the images of a receiver.

use super::ReceiveImage;
use crate::handover::ImageState;

/// Images of a receiver at stable indices.
#[derive(Default)]
pub(crate) struct ImageSlab {
    places: Vec<Option<Box<ReceiveImage>>>,
}

impl ImageSlab {
    pub(crate) fn insert(&mut self, image: Box<ReceiveImage>) -> usize {
        match self.places.iter().position(Option::is_none) {
            Some(index) => {
                self.places[index] = Some(image);
                index
            }
            None => {
                self.places.push(Some(image));
                self.places.len() - 1
            }
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut ReceiveImage> {
        self.places.get_mut(index)?.as_deref_mut()
    }

    pub(crate) fn by_id(&mut self, correlation_id: i64) -> Option<&mut ReceiveImage> {
        self.places
            .iter_mut()
            .filter_map(|place| place.as_deref_mut())
            .find(|image| image.correlation_id == correlation_id)
    }

    pub(crate) fn remove(&mut self, correlation_id: i64) -> Option<(usize, Box<ReceiveImage>)> {
        let index = self
            .places
            .iter()
            .position(|place| place.as_ref().is_some_and(|image| image.correlation_id == correlation_id))?;
        self.places[index].take().map(|image| (index, image))
    }

    /// Stops the status messages of older images of a session (spec 02 §3.3).
    pub(crate) fn silence_others(&mut self, endpoint_id: u64, stream_id: i32, session_id: i32) {
        for image in self.places.iter_mut().filter_map(|place| place.as_deref_mut()) {
            if image.endpoint_id == endpoint_id
                && image.stream_id == stream_id
                && image.session_id == session_id
                && image.setup.shared.state() != ImageState::Active
            {
                image.sends_status = false;
            }
        }
    }

    #[inline]
    pub(crate) fn for_each(&mut self, mut visit: impl FnMut(usize, &mut ReceiveImage)) {
        for (index, place) in self.places.iter_mut().enumerate() {
            if let Some(image) = place {
                visit(index, image);
            }
        }
    }

    pub(crate) fn next_deadline(&self, now_ns: i64) -> Option<i64> {
        self.places.iter().flatten().map(|image| image.next_deadline_ns(now_ns)).min()
    }
}
