//! Calls about what `guestd init` runs, and about the end of the VM.

use crate::api::{ErrorCode, PowerAccepted, PowerAction, PowerRequest, Service, ServiceAction};
use crate::limits;

use super::http::{Question, escaped};
use super::{Call, Client, ClientError};

impl Client {
    /// Services of the VM, the agent first; none where process 1 is another init.
    pub async fn services(&self) -> Result<Option<Vec<Service>>, ClientError> {
        match self.get(Call::get("/v1/services")).await {
            Ok(services) => Ok(Some(services)),
            Err(ClientError::Api { body, .. }) if body.code == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Starts, stops or restarts a service, and gives how it is when that is done.
    pub async fn service(&self, name: &str, action: ServiceAction) -> Result<Service, ClientError> {
        let call = Call::post("/v1/services/{name}/{action}");
        let word = match action {
            ServiceAction::Start => "start",
            ServiceAction::Stop => "stop",
            ServiceAction::Restart => "restart",
        };
        let patience = Some(limits::SERVICE_ACTION_TIME + self.timeouts().answer);
        let question = Question::new(call).to(format!("/v1/services/{}/{word}", escaped(name)));
        let reply = self.send(question, patience).await?;
        self.parsed(call, reply, patience).await
    }

    /// Has the VM end. The answer comes before that.
    pub async fn power(&self, action: PowerAction) -> Result<PowerAccepted, ClientError> {
        let call = Call::post("/v1/power");
        let patience = Some(self.timeouts().answer);
        let reply = self.send(self.json(call, &PowerRequest { action })?, patience).await?;
        self.parsed(call, reply, patience).await
    }
}
