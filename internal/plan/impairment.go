// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/pxelab/pxelab/api/v1alpha1"
)

// Impairment is loss and delay injected into a lab network in each direction. The
// zero value injects none.
type Impairment struct {
	// Loss is the fraction of frames to drop, 0 to 1.
	Loss          float64
	Delay, Jitter time.Duration
}

func newImpairment(spec *v1alpha1.Impairment) (Impairment, error) {
	var i Impairment
	if spec == nil {
		return i, nil
	}
	if loss := spec.LossPercent; loss != nil {
		percent := float64(loss.IntVal)
		if loss.Type == intstr.String {
			var err error
			if percent, err = strconv.ParseFloat(loss.StrVal, 64); err != nil {
				return i, invalid(v1alpha1.ReasonInvalid,
					"spec.network.impairment.lossPercent %q is not a number; write it like 5 or \"0.5\"", loss.StrVal)
			}
		}
		if !(percent >= 0 && percent <= 100) { // also rejects NaN
			return i, invalid(v1alpha1.ReasonInvalid,
				"spec.network.impairment.lossPercent %s is not between 0 and 100", loss)
		}
		i.Loss = percent / 100
	}
	if spec.Delay != nil {
		i.Delay = spec.Delay.Duration
	}
	if spec.Jitter != nil {
		i.Jitter = spec.Jitter.Duration
	}
	return i, nil
}

// String returns a human-readable description, "" for no impairment.
func (i Impairment) String() string {
	var parts []string
	if i.Loss > 0 {
		parts = append(parts, strconv.FormatFloat(i.Loss*100, 'g', 4, 64)+" % loss")
	}
	if i.Delay > 0 {
		text := i.Delay.String() + " delay"
		if i.Jitter > 0 {
			text = i.Delay.String() + " ± " + i.Jitter.String() + " delay"
		}
		parts = append(parts, text)
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(parts, ", ") + " in each direction"
}
