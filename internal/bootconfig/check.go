// SPDX-License-Identifier: Apache-2.0

package bootconfig

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"github.com/pxelab/pxelab/internal/bootconfig/policy"
	"github.com/pxelab/pxelab/internal/netbootapi"
)

// Check renders the iPXE script and the cloud-init files of a machine as netbootd
// would serve them, and returns the first error: a template does not parse, lacks
// a value, or renders text that its reader would reject. It is pure; cancelling ctx ends it.
func Check(ctx context.Context, in Input) error {
	r := Renderer{Port: 80}
	if _, err := r.Script(ctx, in, policy.Decision{Action: policy.ActionInstall}); err != nil {
		return fmt.Errorf("iPXE script: %w", err)
	}
	for _, name := range []string{"meta-data", "user-data", "vendor-data", "network-config"} {
		if _, err := r.CloudInit(ctx, name, in); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// CheckKey returns a digest of all that Check depends on, and of nothing else: the values
// of the templates, those of the default script, and the templates. It is secret, because
// the texts are not keyed.
func CheckKey(in Input) string {
	r := Renderer{Port: 80}
	texts := make([][sha256.Size]byte, 0, 3)
	for _, text := range []string{in.Texts.IPXE, in.Texts.UserData, in.Texts.NetworkConfig} {
		texts = append(texts, sha256.Sum256([]byte(text)))
	}
	raw, err := json.Marshal([]any{r.values(in), r.install(in), texts})
	if err != nil {
		panic(fmt.Sprintf("marshalling the values of a machine: %v", err)) // strings and numbers always marshal
	}
	return netbootapi.Digest(raw)
}
