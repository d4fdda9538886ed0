"""The models in PyTorch, written as its users write them: to measure against, never to use."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional


class VAE(nn.Module):
    """`models.vae.ConvVAE` and its loss, in PyTorch's own convolutions."""

    def __init__(self):
        super().__init__()
        widths, layers = (3, 32, 64, 128, 256), ((1024, 128, 5), (128, 64, 5), (64, 32, 6))
        self.encoder = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 4, 2), nn.ReLU())
                for a, b in itertools.pairwise(widths)
            )
        )
        self.to_mu, self.to_logvar = nn.Linear(1024, 32), nn.Linear(1024, 32)
        self.from_latent = nn.Linear(32, 1024)
        self.decoder = nn.Sequential(
            *(nn.Sequential(nn.ConvTranspose2d(a, b, k, 2), nn.ReLU()) for a, b, k in layers),
            nn.ConvTranspose2d(32, 3, 6, 2),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Frames (batch, 3, 64, 64), 0..1 -> the loss."""
        hidden = self.encoder(x).flatten(1)
        mu, logvar = self.to_mu(hidden), self.to_logvar(hidden)
        z = mu + torch.exp(logvar / 2) * torch.randn_like(mu)
        y = self.decoder(self.from_latent(z)[:, :, None, None])
        kl = ((mu.square() + logvar.exp() - 1 - logvar) / 2).sum(1)
        return (x - y).square().sum((1, 2, 3)).mean() + kl.clamp(min=16).mean()


class MDNRNN(nn.Module):
    """`models.rnn.MDNRNN` and its loss, with PyTorch's LSTM."""

    def __init__(self, latent: int = 32, hidden: int = 256, components: int = 5):
        super().__init__()
        self.latent, self.components = latent, components
        self.lstm = nn.LSTM(latent + 3, hidden, batch_first=True)
        self.heads = nn.Linear(hidden, 3 * components * latent + 2)

    def forward(self, window: dict[str, Tensor]) -> Tensor:
        """The rows of a `models.rnn.Window`, (batch, time, ...) -> the loss."""
        mu, scale = window["mu"], torch.exp(window["logvar"] / 2)
        z = mu + scale * torch.randn_like(mu)
        next_mu, next_scale = window["next_mu"], torch.exp(window["next_logvar"] / 2)
        target = next_mu + next_scale * torch.randn_like(mu)
        actions, rewards, failed = (window[name] for name in ("actions", "rewards", "failed"))
        hidden, _ = self.lstm(torch.cat([z, actions], -1))
        out = self.heads(hidden)
        mixture = out[..., :-2].reshape(*z.shape[:-1], 3, self.components, self.latent)
        log_weight = mixture[..., 0, :, :].log_softmax(-2)
        mean, log_scale = mixture[..., 1, :, :] + z[..., None, :], mixture[..., 2, :, :]
        standardised = (target[..., None, :] - mean) * torch.exp(-log_scale)
        log_normal = -0.5 * (standardised.square() + 1.8378770664) - log_scale
        nll = -torch.logsumexp(log_weight + log_normal, -2).mean()
        error = out[..., -2] - rewards
        reward = (error.square() * torch.where(error > 0, 5.0, 1.0)).mean()
        end = functional.binary_cross_entropy_with_logits(out[..., -1], failed)
        return nll + reward + end
