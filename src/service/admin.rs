//! Health and reflection: for an address of their own, which outsiders do not reach. Reflection tells
//! what the files in `proto/` tell, so that the public address may serve it too.

use tonic::service::Routes;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use super::SERVICES;
use crate::proto::DESCRIPTOR_SET;

/// What health checks are told.
#[derive(Clone, Debug)]
pub struct HealthControl {
    reporter: HealthReporter,
}

impl HealthControl {
    /// Every service is ready.
    pub async fn set_serving(&self) {
        self.set(ServingStatus::Serving).await;
    }

    /// No service takes calls, or soon none will.
    pub async fn set_not_serving(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    /// The empty name stands for the server as a whole and is set with the others: tonic-health
    /// leaves it serving otherwise.
    async fn set(&self, status: ServingStatus) {
        for service in SERVICES.into_iter().chain([""]) {
            self.reporter.set_service_status(service, status).await;
        }
    }
}

/// Health and reflection. Nothing is serving until [`HealthControl::set_serving`].
pub async fn admin_routes() -> (Routes, HealthControl) {
    let reporter = HealthReporter::new();
    let health = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
    let control = HealthControl { reporter };
    control.set_not_serving().await;
    let mut routes = Routes::builder();
    routes.add_service(health);
    (with_reflection(routes.routes()), control)
}

/// Adds reflection, in the version of today and in the one that older tools speak.
#[must_use]
pub fn with_reflection(routes: Routes) -> Routes {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let made = "both descriptor sets were made by a compiler";
    routes
        .add_service(reflection().build_v1().expect(made))
        .add_service(reflection().build_v1alpha().expect(made))
}
