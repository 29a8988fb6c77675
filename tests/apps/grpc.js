// The service of the tests over gRPC: messages are JSON, so that no compiler of protocols is needed.
'use strict';

const serialize = (message) => Buffer.from(JSON.stringify(message));
const deserialize = (bytes) => JSON.parse(bytes.toString());

function method(name, requestStream, responseStream) {
  return { path: `/lb.Test/${name}`, requestStream, responseStream,
    requestSerialize: serialize, requestDeserialize: deserialize,
    responseSerialize: serialize, responseDeserialize: deserialize };
}

module.exports = {
  Id: method('Id', false, false),
  Count: method('Count', false, true),
  Sum: method('Sum', true, false),
  Echo: method('Echo', true, true),
  Fail: method('Fail', false, false),
  Wait: method('Wait', false, true),
  Cancelled: method('Cancelled', false, false),
};
