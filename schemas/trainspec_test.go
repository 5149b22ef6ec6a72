package schemas

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestTrainerSpec(t *testing.T) {
	tests := []struct{ spec, want string }{
		{`{"sft": {"trainer": {"adam_beta2": 0.95, "lr_scheduler_type": "cosine", "optim_args": null, "weight_decay": 1}}}`, ""},
		{`{"rl": {"trainer": {"use_vllm": true, "vllm_mode": "colocate", "top_p": 0.9}}}`, ""},
		{`{"sft": {"trainer": {"output_dir": "/tmp"}}}`, "sft.trainer.output_dir is not to be set: any death resumes as Precept has it"},
		{`{"sft": {"trainer": {"num_train_epochs": 3}}}`, "sft.trainer.num_train_epochs is not to be set: set epochs"},
		{`{"sft": {"trainer": {"beta": 0.1}}}`, "sft.trainer.beta is not a field of TRL's configuration for sft"},
		{`{"rl": {"trainer": {"beta": 0.1}}}`, "rl.trainer.beta is not to be set: set beta"},
		{`{"rl": {"trainer": {"top_k": 1.5}}}`, "rl.trainer.top_k is of type number; TRL takes integer"},
		{`{"rl": {"trainer": {"use_vllm": "yes"}}}`, "rl.trainer.use_vllm is of type string; TRL takes boolean"},
		{`{"sft": {"trainer": {"trust_remote_code": true}}}`, "no foreign code is run"},
		{`{"sft": {"report_to": ["stdout"]}}`, `sft.report_to is "stdout"; use one of tensorboard, wandb, mlflow`},
		{`{"sft": {"patience": 2}}`, "set sft.held_out"},
		{`{"sft": {"lora": {}}}`, ""},
		{`{"sft": {"lora": {}, "trainable_layers": 3}}`, "use sft.lora.layers"},
		{`{"sft": {"lora": {"r": -1}}}`, "sft.lora.r is -1"},
		{`{"rl": {"loss": "ppo"}}`, `rl.loss is "ppo"; use one of grpo`},
		{`{"rl": {"hang_after": "10ms"}}`, "rl.hang_after is 10ms"},
	}
	for _, tt := range tests {
		var s RunSpec
		if err := json.Unmarshal([]byte(tt.spec), &s); err != nil {
			t.Fatal(err)
		}
		s.Name = "x"
		err := s.WithDefaults().Validate()
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.spec, err)
			}
		} else if KindOf(err) != InvalidInput || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want it to say %q", tt.spec, err, tt.want)
		}
	}
}
