//! Stand-in for the services until they are merged.
use crate::{engine::Engine, runtime::Registry};
use tonic::service::Routes;
/// Stub.
pub fn routes(_engine: Engine, _jobs: Registry) -> Routes {
    Routes::default()
}
/// Stub.
#[derive(Clone, Debug)]
pub struct HealthControl(tonic_health::server::HealthReporter);
impl HealthControl {
    /// Stub.
    pub async fn set_serving(&self) {
        self.0
            .set_service_status("", tonic_health::ServingStatus::Serving)
            .await
    }
    /// Stub.
    pub async fn set_not_serving(&self) {
        self.0
            .set_service_status("", tonic_health::ServingStatus::NotServing)
            .await
    }
}
/// Stub.
pub async fn admin_routes() -> (Routes, HealthControl) {
    let (reporter, server) = tonic_health::server::health_reporter();
    (Routes::new(server), HealthControl(reporter))
}
