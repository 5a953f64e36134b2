"""What grpcurl does: learns the API from the server by reflection, and calls what it has learnt."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory

pytest.importorskip("grpc_reflection")

from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)


def test_a_task_is_submitted_by_a_client_without_our_files(server, name):
    with grpc.insecure_channel(server.address.removeprefix("http://")) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert "duite.v1.TaskService" in database.get_services()
        # A pool of its own: nothing of what the package has registered.
        pool = descriptor_pool.DescriptorPool(database)
        service = pool.FindServiceByName("duite.v1.TaskService")
        method = service.FindMethodByName("CreateTask")
        request = message_factory.GetMessageClass(method.input_type)(
            parent="namespaces/default", task_id=name, task={"type": "reflected"}
        )
        call = channel.unary_unary(
            f"/{service.full_name}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        task = call(request, timeout=10).task
        assert task.name == f"namespaces/default/tasks/{name}"
        assert task.DESCRIPTOR.enum_types_by_name["Status"].values_by_number[task.status].name == (
            "STATUS_QUEUED"
        )
