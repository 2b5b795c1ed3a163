//go:build tools

// What is built of Jaeger: version 1's single program, and version 2's, which is an OpenTelemetry collector with the
// processors that deploy/otel-collector uses.
package programs

import (
	_ "github.com/jaegertracing/jaeger/cmd/all-in-one"
	_ "github.com/jaegertracing/jaeger/cmd/jaeger"
)
